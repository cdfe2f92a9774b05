-- Every order that was committed: what the topic has to hold.
select id, customer, version from orders
