-- The checksum of a migration's text. One row always.
-- The server computes it, which spares the binary a hash of its own.
select encode(sha256(convert_to($1, 'UTF8')), 'hex')
