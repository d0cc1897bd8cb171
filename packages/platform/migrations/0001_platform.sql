-- The platform's tables. All times are the database's; durations and points in time of records are ms since 1970.

create table platform.settings (
  key text primary key,
  value jsonb not null
);

create table platform.agents (
  id text primary key,
  email text not null,
  verified_at timestamptz,
  created_at timestamptz not null default now()
);
-- One agent an address; those that are not verified yet may be many.
create unique index agents_email on platform.agents (lower(email)) where verified_at is not null;

create table platform.keys (
  id text primary key,
  agent text not null references platform.agents on delete cascade,
  name text not null,
  hash bytea not null unique,
  hint text not null,
  -- Null: every pod of the agent.
  pods text[],
  -- Null: everything.
  verbs text[],
  expires_at timestamptz,
  last_used_at timestamptz,
  created_at timestamptz not null default now()
);
create index keys_agent on platform.keys (agent);

-- Single-use links, by the hash of their token.
create table platform.links (
  hash bytea primary key,
  agent text not null references platform.agents on delete cascade,
  expires_at timestamptz not null
);

-- Counters of limits, by what is limited and the start of the window.
create table platform.counters (
  key text not null,
  window_start bigint not null,
  seconds int not null,
  used bigint not null,
  primary key (key, window_start)
);

create table platform.environments (
  id text primary key,
  name text not null unique,
  memory_mb int not null,
  cpus real not null,
  processes int not null,
  scratch_mb int not null,
  credits_per_day int not null,
  created_at timestamptz not null default now()
);
insert into platform.environments (id, name, memory_mb, cpus, processes, scratch_mb, credits_per_day) values
  ('standard', 'standard', 256, 1, 128, 64, 33),
  ('large000', 'large', 1024, 2, 256, 256, 132);

create table platform.pods (
  id text primary key,
  agent text not null references platform.agents,
  name text not null,
  environment text not null references platform.environments,
  replicas int not null default 1,
  status text not null default 'new' check (status in ('new', 'running', 'stopped', 'deleted')),
  -- What is live.
  deployment text,
  -- What the pod's secrets are now; a deployment is pinned to the version it was made with.
  secrets_version int not null default 0,
  deleted_at timestamptz,
  created_at timestamptz not null default now()
);
create unique index pods_name on platform.pods (name) where status <> 'deleted';
create index pods_agent on platform.pods (agent, created_at);

create table platform.secrets (
  pod text not null references platform.pods on delete cascade,
  version int not null,
  -- Sealed with the platform's master key: names and values together.
  sealed bytea not null,
  names text[] not null,
  created_at timestamptz not null default now(),
  primary key (pod, version)
);

create table platform.deployments (
  id text primary key,
  pod text not null references platform.pods on delete cascade,
  number int not null,
  status text not null default 'queued' check (status in ('queued', 'running', 'live', 'superseded', 'failed', 'cancelled')),
  -- [[path, sha256, bytes], …]
  files jsonb not null,
  secrets_version int not null,
  -- The deployment whose files these are, when it brings an earlier one back.
  rollback_of text,
  -- A snapshot whose data the switch brings back.
  restores text,
  -- The snapshot of how it was before: taken earlier, when a push replaced data first; else the switch takes one.
  before text,
  message text,
  -- Its run, whose id is chosen here, so that enqueueing may be repeated.
  run text not null,
  -- [{name, status, startedAt, endedAt, detail}, …]
  steps jsonb not null default '[]',
  error jsonb,
  created_at timestamptz not null default now(),
  live_at timestamptz,
  ended_at timestamptz,
  unique (pod, number)
);

-- ---- what pods keep ----

-- One row a pod: the lock that its writes take, the last version given, and the size of tp.db.
create table platform.stores (
  pod text primary key references platform.pods on delete cascade,
  version bigint not null default 0,
  db_size bigint not null default 0
);

create table platform.records (
  pod text not null,
  space text not null,
  -- UTF-16, high byte first: sorts as JavaScript does and holds any string.
  key bytea not null,
  value text not null,
  version bigint not null,
  -- 0: stays.
  expires bigint not null,
  primary key (pod, space, key)
);
create index records_expiry on platform.records (expires) where expires > 0;

-- Ids of writes, so that one whose answer was lost is not done twice.
create table platform.writes (
  pod text not null,
  id uuid not null,
  outcome jsonb not null,
  at timestamptz not null default now(),
  primary key (pod, id)
);
create index writes_age on platform.writes (at);

create table platform.files (
  pod text not null,
  name text not null collate "C",
  -- Where the bytes are; never written twice, so that a snapshot may share it.
  object text not null,
  size bigint not null,
  content_type text not null,
  etag text not null,
  modified_at bigint not null,
  primary key (pod, name)
);
create index files_object on platform.files (object);

-- Data as it was: before a deployment went live, before something was replaced or deleted.
create table platform.snapshots (
  id text primary key,
  pod text not null references platform.pods on delete cascade,
  reason text not null,
  deployment text,
  secrets_version int not null,
  db_size bigint not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz
);
create index snapshots_pod on platform.snapshots (pod, created_at);
create table platform.snapshot_records (
  snapshot text not null references platform.snapshots on delete cascade,
  space text not null,
  key bytea not null,
  value text not null,
  expires bigint not null,
  primary key (snapshot, space, key)
);
create table platform.snapshot_files (
  snapshot text not null references platform.snapshots on delete cascade,
  name text not null collate "C",
  object text not null,
  size bigint not null,
  content_type text not null,
  etag text not null,
  modified_at bigint not null,
  primary key (snapshot, name)
);
create index snapshot_files_object on platform.snapshot_files (object);

create table platform.mails (
  id text primary key,
  -- Null: from the platform itself.
  pod text references platform.pods on delete cascade,
  mail jsonb not null,
  status text not null,
  at timestamptz not null default now()
);
create index mails_pod on platform.mails (pod, id);
