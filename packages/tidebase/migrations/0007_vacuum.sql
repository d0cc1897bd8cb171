-- Retention deletes by the run, many rows of each at a time. By Postgres' own defaults a fifth of a table is dead before
-- it is cleaned; here a fiftieth, so that the space is used again instead of growing.
alter table tidebase.steps set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
alter table tidebase.events set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
alter table tidebase.usage set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
alter table tidebase.deliveries set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
