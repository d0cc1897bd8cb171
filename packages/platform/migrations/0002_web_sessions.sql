-- Sessions of the platform's pages: a cookie stands for a key, with exactly its rights.
create table platform.web_sessions (
  -- SHA-256 of the cookie.
  hash bytea primary key,
  -- Null: the operator's.
  key text references platform.keys on delete cascade,
  -- What the key was then: a session ends when the key gets a new secret.
  proof bytea not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null
);
create index web_sessions_key on platform.web_sessions (key);
