-- Locks the customer until the transaction ends and returns the version of its next order. One row always.
update customer set version = version + 1 where name = $1 returning version
