-- Events of all runs in the order of their ids, for the event stream of a project. By id first: new entries land at the
-- end of the index, and what reads one run's events has no use for it.
create index events_by_id on tidebase.events (id, project);
