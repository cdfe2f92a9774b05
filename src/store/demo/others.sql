-- Who is connected to database $1, ourselves aside: user, program, what kind of process and what it does. Null: nobody.
select string_agg(concat_ws(' ', coalesce(usename, 'nobody'), nullif(application_name, ''), backend_type, state), ', ')
  from pg_stat_activity
 where datname = $1 and pid <> pg_backend_pid()
