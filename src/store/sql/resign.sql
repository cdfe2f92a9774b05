-- Gives the lease back; the epoch stays. False: it was no longer ours.
select outbox.resign($1, $2) as ours
