-- Whether this login may read payloads. One row always.
-- Asked before anything is shown, so that a refusal does not come in the middle.
select has_function_privilege('outbox.reveal(bigint[], text)', 'execute')
