-- What outside uses a plane and can be told to stop and to go on: schedules of ingestion, servers, caches.
CREATE TABLE dependents (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    plane_id uuid NOT NULL REFERENCES planes (id), -- what it uses
    name text,                                   -- how people call it; NULL once the plane is purged
    kind text NOT NULL CHECK (kind IN ('schedule', 'service', 'other')), -- decides under which access it is suspended
    control text,                                -- the section [dependents.NAME] with its commands; NULL once the plane is purged
    added_at timestamptz NOT NULL,               -- when it was registered
    removed_at timestamptz                       -- when somebody took it off the list; a suspension of it is still undone
);
CREATE UNIQUE INDEX dependents_by_plane ON dependents (plane_id, name) WHERE removed_at IS NULL;
