-- The order service's own tables, a script. A customer's row is locked for the length of an order, which gives the
-- orders of one customer their order; its version grows by one with each order that commits.
create table customer (name text primary key, version bigint not null default 0);
create table orders (
    id uuid primary key,
    customer text not null references customer,
    version bigint not null,
    cents bigint not null,
    unique (customer, version)
);
