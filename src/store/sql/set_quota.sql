-- Lets only $2 messages of topic $1 wait; null: any number. $3 why. Returns the number of the note in outbox.request.
-- Whoever is no member of outbox_admin gets an error; so does a name that is no topic's (check_violation).
select outbox.set_quota($1, $2, $3) as noted
