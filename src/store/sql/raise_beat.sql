-- Says that the holder of this epoch is alive. False: the epoch is no longer ours.
select outbox.raise_beat($1, $2) as ours
