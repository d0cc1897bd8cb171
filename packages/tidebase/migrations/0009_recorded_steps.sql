-- A step that began and completed at once has one row for both of its events, type `step.recorded`, whose id and number
-- are the second's. The first one's id is one less: from here on ids are even, so that it is nobody else's.
-- A server of before that still runs shows such a row as it is, until it is replaced.
alter table tidebase.events alter column id set increment by 2;
select setval(pg_get_serial_sequence('tidebase.events', 'id'), (coalesce(max(id), 0) / 2 + 1) * 2, false)
from tidebase.events;
