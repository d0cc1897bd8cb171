-- How long ended runs are kept: null is the server's default, 0 is for ever.
alter table tidebase.projects add column retention_days integer check (retention_days >= 0);

-- The last time of a schedule that fired: what its runs prove as long as they are kept.
alter table tidebase.schedules add column last_fire_at timestamptz;

-- Ended runs by age, for retention; no other statement asks for it.
create index runs_ended on tidebase.runs (project, completed_at) where completed_at is not null;
