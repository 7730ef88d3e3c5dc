"""Every SQL statement of the recording path, named and commented. Reading ones are in `reading.py`.

All are set-based: one statement handles a whole batch, with keys sorted, so that two writers meet
in the same order. Every change of what a workspace stores happens under its row lock
(`LOCK_WORKSPACES`), taken first and in order of id.
"""

# -- workspaces and repositories --------------------------------------------------------------

FIND_REPOSITORIES = """
SELECT r.registry, r.name, r.id, r.workspace_id
FROM unnest($1::text[], $2::text[]) AS wanted(registry, name)
JOIN repositories r USING (registry, name)
"""

# A workspace appears with its first image at the default quota. Committed on its own, before the
# batch: a workspace without images is invisible, so a batch that fails after it leaves no trace.
ADD_WORKSPACES = """
INSERT INTO workspaces (name, quota_bytes, found_by_reconciliation)
SELECT name, $2, $3 FROM unnest($1::text[]) AS name ORDER BY name
ON CONFLICT (name) DO NOTHING
"""

ADD_REPOSITORIES = """
INSERT INTO repositories (registry, name, workspace_id, app)
SELECT given.registry, given.name, w.id, given.app
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS given(registry, name, workspace, app)
JOIN workspaces w ON w.name = given.workspace
ORDER BY given.registry, given.name
ON CONFLICT (registry, name) DO NOTHING
"""

LOCK_WORKSPACES = """
SELECT id, name, quota_bytes, usage_bytes, level, first_image_at IS NOT NULL AS has_images
FROM workspaces WHERE id = ANY($1::int[]) ORDER BY id FOR UPDATE
"""

# After the locks: a repository may have been mapped to another workspace meanwhile.
WORKSPACES_OF_REPOSITORIES = """
SELECT id, workspace_id, name, app FROM repositories WHERE id = ANY($1::int[])
"""

# -- what is known of manifests and tags ------------------------------------------------------

LOAD_MANIFESTS = """
SELECT m.repository_id, m.digest, m.push_ns, m.push_id, m.seen_ns, m.seen_id, m.delete_ns,
       m.delete_id, m.created_ns, m.pulled_ns, m.left_ns, m.size, m.media_type, m.config_media_type, m.artifact_type, m.subject,
       m.subject_known, m.blobs, m.children, m.claimed_ns
FROM unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest)
JOIN manifests m USING (repository_id, digest)
"""

LOAD_TAGS = """
SELECT t.repository_id, t.name, t.digest, t.set_ns, t.set_id, t.untag_ns, t.untag_id
FROM unnest($1::int[], $2::text[]) AS wanted(repository_id, name)
JOIN tags t USING (repository_id, name)
"""

# Live or not: the fold decides.
LOAD_TAGS_ON_MANIFESTS = """
SELECT t.repository_id, t.name, t.digest, t.set_ns, t.set_id, t.untag_ns, t.untag_id
FROM unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest)
JOIN tags t USING (repository_id, digest)
"""

SAVE_MANIFESTS = """
INSERT INTO manifests (repository_id, digest, push_ns, push_id, seen_ns, seen_id, delete_ns,
                       delete_id, created_ns, pulled_ns, left_ns, size, media_type, config_media_type, artifact_type, subject,
                       subject_known, blobs, children, claimed_ns, present)
SELECT * FROM unnest($1::int[], $2::bytea[], $3::int8[], $4::bytea[], $5::int8[], $6::bytea[],
                     $7::int8[], $8::bytea[], $9::int8[], $10::int8[], $11::int8[], $12::int8[],
                     $13::text[], $14::text[], $15::text[], $16::bytea[], $17::bool[],
                     $18::bytea[], $19::bytea[], $20::int8[], $21::bool[])
ON CONFLICT (repository_id, digest) DO UPDATE SET
    push_ns = excluded.push_ns, push_id = excluded.push_id,
    seen_ns = excluded.seen_ns, seen_id = excluded.seen_id,
    delete_ns = excluded.delete_ns, delete_id = excluded.delete_id,
    created_ns = excluded.created_ns,
    pulled_ns = excluded.pulled_ns, left_ns = excluded.left_ns,
    size = excluded.size, media_type = excluded.media_type,
    config_media_type = excluded.config_media_type, artifact_type = excluded.artifact_type,
    subject = excluded.subject, subject_known = excluded.subject_known,
    blobs = excluded.blobs, children = excluded.children, claimed_ns = excluded.claimed_ns,
    present = excluded.present
"""

SAVE_TAGS = """
INSERT INTO tags (repository_id, name, digest, set_ns, set_id, untag_ns, untag_id)
SELECT * FROM unnest($1::int[], $2::text[], $3::bytea[], $4::int8[], $5::bytea[], $6::int8[],
                     $7::bytea[])
ON CONFLICT (repository_id, name) DO UPDATE SET
    digest = excluded.digest, set_ns = excluded.set_ns, set_id = excluded.set_id,
    untag_ns = excluded.untag_ns, untag_id = excluded.untag_id
"""

# -- bytes -------------------------------------------------------------------------------------

LOAD_HOLDINGS = """
SELECT h.workspace_id, h.digest, h.refs, h.size, h.stored, h.mixed
FROM unnest($1::bytea[], $2::int[]) AS wanted(digest, workspace_id)
JOIN workspace_digests h USING (digest, workspace_id)
"""

LOAD_HOLDERS = """
SELECT workspace_id, digest, refs, size, stored, mixed
FROM workspace_digests WHERE digest = ANY($1::bytea[])
"""

SAVE_HOLDINGS = """
INSERT INTO workspace_digests (digest, workspace_id, refs, size, stored, mixed, released_at)
SELECT digest, workspace_id, refs, size, stored, mixed, CASE WHEN released THEN $8::timestamptz END
FROM unnest($1::bytea[], $2::int[], $3::int[], $4::int8[], $5::bool[], $6::bool[], $7::bool[])
  AS given(digest, workspace_id, refs, size, stored, mixed, released)
ON CONFLICT (digest, workspace_id) DO UPDATE SET
    refs = excluded.refs, size = excluded.size, stored = excluded.stored, mixed = excluded.mixed,
    released_at = CASE WHEN excluded.refs > 0 THEN NULL
                       ELSE coalesce(excluded.released_at, workspace_digests.released_at) END
"""

# Below 0: somebody uses the blob and waits for storage's word (`SAVE_STORED`).
LOAD_STORED = """
SELECT digest, size FROM stored_blobs WHERE digest = ANY($1::bytea[]) AND size >= 0
"""

# The largest, so that the order in which storage's words come plays no part. A row that stays as it
# is gets locked all the same.
SAVE_STORED = """
INSERT INTO stored_blobs (digest, size)
SELECT * FROM unnest($1::bytea[], $2::int8[])
ON CONFLICT (digest) DO UPDATE SET size = excluded.size WHERE stored_blobs.size < excluded.size
"""

# By primary key, once for each repository of the workspace.
DOCUMENT_SIZE = """
SELECT max(m.size) FROM repositories r
JOIN manifests m ON m.repository_id = r.id AND m.digest = $2
WHERE r.workspace_id = $1 AND m.present
"""

# The packed column is searched for the digest's bytes; only for digests declared in two sizes.
DECLARING_MANIFESTS = """
SELECT m.blobs FROM manifests m JOIN repositories r ON r.id = m.repository_id
WHERE r.workspace_id = $1 AND m.present AND position($2::bytea IN m.blobs) > 0
"""

# A pull or a hook call may have made the row before: first seen is who brought the first image.
SAVE_USAGE = """
UPDATE workspaces w
SET usage_bytes = given.usage_bytes, level = given.level,
    first_image_at = CASE WHEN given.has_images THEN coalesce(w.first_image_at, $5::timestamptz)
                          ELSE w.first_image_at END,
    found_by_reconciliation = w.found_by_reconciliation
      OR ($6 AND given.has_images AND w.first_image_at IS NULL),
    changed_at = $5::timestamptz
FROM unnest($1::int[], $2::int8[], $3::text[], $4::bool[]) AS given(id, usage_bytes, level, has_images)
WHERE w.id = given.id
"""

# -- what is to be announced --------------------------------------------------------------------

ADD_TO_OUTBOX = """
INSERT INTO outbox (event_id, workspace_id, workspace, type, data, occurred_at)
SELECT event_id, workspace_id, workspace, type, data::json, $6::timestamptz
FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[])
  WITH ORDINALITY AS given(event_id, workspace_id, workspace, type, data, position)
ORDER BY position
"""

# -- offsets -------------------------------------------------------------------------------------

# A new owner takes a new epoch: from now on a batch of the previous owner is refused.
TAKE_PARTITION = """
INSERT INTO consumer_offsets (cluster_id, topic, partition, epoch, next_offset, owner)
VALUES ($1, $2, $3, 1, $4, $5)
ON CONFLICT (cluster_id, topic, partition) DO UPDATE
SET epoch = consumer_offsets.epoch + 1, owner = excluded.owner, changed_at = now()
RETURNING epoch, next_offset
"""

ADVANCE_OFFSETS = """
UPDATE consumer_offsets o
SET next_offset = given.next_offset, changed_at = now()
FROM unnest($3::int[], $4::int8[], $5::int8[], $6::int8[])
  AS given(partition, epoch, expected_offset, next_offset)
WHERE o.cluster_id = $1 AND o.topic = $2 AND o.partition = given.partition
  AND o.epoch = given.epoch AND o.next_offset = given.expected_offset
"""

RESET_OFFSET = """
UPDATE consumer_offsets SET next_offset = $5, changed_at = now()
WHERE cluster_id = $1 AND topic = $2 AND partition = $3 AND epoch = $4
"""

# -- what the registry is to be asked later -----------------------------------------------------

# Two sets of one tag stood close together: only the registry knows which one holds.
ADD_TAG_CHECKS = """
INSERT INTO tag_checks (repository_id, tag, due_at)
SELECT repository_id, tag, $3 FROM unnest($1::int[], $2::text[]) AS given(repository_id, tag)
ON CONFLICT (repository_id, tag) DO UPDATE
SET due_at = excluded.due_at, attempts = 0
"""

# One row for a whole batch, and none where storage has spoken of every blob already.
ADD_SIZE_CHECK = "INSERT INTO size_checks (manifests, due_at, attempts) VALUES ($1, $2, $3)"

# -- observations --------------------------------------------------------------------------------

ADD_OBSERVATIONS = """
INSERT INTO observations (registry, repository, kind, source, stamp_ns, stamp_id, fact)
SELECT registry, repository, kind, $1, stamp_ns, stamp_id, fact::json
FROM unnest($2::text[], $3::text[], $4::text[], $5::int8[], $6::bytea[], $7::text[])
  AS given(registry, repository, kind, stamp_ns, stamp_id, fact)
"""

# -- sizes that are pending ----------------------------------------------------------------------

POSTPONE_FETCH = """
UPDATE manifests m SET fetch_attempts = given.attempts, fetch_after = given.fetch_after
FROM unnest($1::int[], $2::bytea[], $3::int2[], $4::timestamptz[])
  AS given(repository_id, digest, attempts, fetch_after)
WHERE m.repository_id = given.repository_id AND m.digest = given.digest
"""
