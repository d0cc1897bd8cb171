-- Runs that failed or were cancelled, for lists by workflow, queue and reason: those are few among many, and without an
-- index of their own a list of them reads all that the workflow or queue ever completed. A run that completes never
-- enters these.
create index runs_stopped_by_workflow on tidebase.runs (project, workflow_name, status, created_at)
  where status in ('failed', 'cancelled');
create index runs_stopped_by_queue on tidebase.runs (project, queue, status, created_at)
  where status in ('failed', 'cancelled') and queue is not null;
create index runs_cancelled_by_reason on tidebase.runs (project, cancel_reason, created_at)
  where status = 'cancelled' and cancel_reason is not null;
