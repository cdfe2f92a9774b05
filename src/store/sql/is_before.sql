-- Whether time $1 is before time $2, both as text. One row always.
-- Reads no table: only Postgres knows how it reads a time.
select $1::text::timestamptz < $2::text::timestamptz as is_before
