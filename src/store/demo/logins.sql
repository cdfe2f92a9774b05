-- The logins that the order service and the relays use on a server of the demo's own, with the rights that they would
-- have in production and no others. A script; needs the roles that migrate makes.
create role demo_shop login in role outbox_producer;
create role demo_relay login in role outbox_relay;
grant select, update on customer to demo_shop;
grant select, insert on orders to demo_shop;
