-- What outside uses a plane and can be told to stop and to go on: schedules of ingestion, servers, caches.
CREATE TABLE dependents (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    plane_id TEXT NOT NULL REFERENCES planes (id), -- what it uses
    name TEXT,                                   -- how people call it; NULL once the plane is purged
    kind TEXT NOT NULL CHECK (kind IN ('schedule', 'service', 'other')), -- decides under which access it is suspended
    control TEXT,                                -- the section [dependents.NAME] with its commands; NULL once the plane is purged
    added_at INTEGER NOT NULL,                   -- when it was registered
    removed_at INTEGER                           -- when somebody took it off the list; a suspension of it is still undone
) STRICT;
CREATE UNIQUE INDEX dependents_by_plane ON dependents (plane_id, name) WHERE removed_at IS NULL;
