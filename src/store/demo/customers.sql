-- Makes $1 customers, customer-01 and so on.
insert into customer (name) select 'customer-' || to_char(n, 'FM000') from generate_series(1, $1::int) as n
