"""Every SQL statement of the recording path, named and commented. Reading ones are in `reading.py`.

All are set-based: one statement handles a whole batch, with keys sorted, so that two writers meet
in the same order. Every change of what a workspace stores happens under its row lock
(`LOCK_WORKSPACES`), taken first and in order of id.
"""

# -- workspaces and repositories --------------------------------------------------------------

FIND_REPOSITORIES = """
SELECT r.registry, r.name, r.id, r.workspace_id, r.unsure_ns
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
INSERT INTO repositories (registry, name, workspace_id, app, unsure_ns)
SELECT given.registry, given.name, w.id, given.app, CASE WHEN $5 THEN 0 END
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
SELECT id, workspace_id, registry, name, app FROM repositories WHERE id = ANY($1::int[])
"""

# -- what is known of manifests and tags ------------------------------------------------------

# What is read by thousands of keys is read by `LATERAL … LIMIT 1`, one descent of an index for each: for
# a plain join Postgres would rather read and hash the whole table, up to some hundred thousand rows, and
# what a batch costs would grow with what is stored.

LOAD_MANIFESTS = """
SELECT m.repository_id, m.digest, m.push_ns, m.push_id, m.seen_ns, m.seen_id, m.delete_ns,
       m.delete_id, m.sure_ns, m.sure_id, m.heard_ns, m.heard_id, m.odd, m.created_ns, m.pulled_ns, m.left_ns, m.size, m.media_type, m.config_media_type, m.artifact_type, m.subject,
       m.subject_known, m.blobs, m.children, m.claimed_ns, m.read_by, m.dated_ns, m.dated_stamp, m.first_ns
FROM unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest)
CROSS JOIN LATERAL (
  SELECT * FROM manifests
  WHERE repository_id = wanted.repository_id AND digest = wanted.digest LIMIT 1) m
"""

LOAD_TAGS = """
SELECT t.repository_id, t.name, t.digest, t.set_ns, t.set_id, t.untag_ns, t.untag_id,
       t.history_set_ns, t.history_partial, t.history, t.odd
FROM unnest($1::int[], $2::text[]) AS wanted(repository_id, name)
CROSS JOIN LATERAL (
  SELECT * FROM tags WHERE repository_id = wanted.repository_id AND name = wanted.name LIMIT 1) t
"""

# Live or not: the fold decides.
LOAD_TAGS_ON_MANIFESTS = """
SELECT t.repository_id, t.name, t.digest, t.set_ns, t.set_id, t.untag_ns, t.untag_id,
       t.history_set_ns, t.history_partial, t.history, t.odd
FROM unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest)
JOIN tags t USING (repository_id, digest)
"""

# Rows that are not there yet are copied in (`store.py`); nobody else can add one under the locks.
CHANGE_MANIFESTS = """
UPDATE manifests m SET
    push_ns = given.push_ns, push_id = given.push_id,
    seen_ns = given.seen_ns, seen_id = given.seen_id,
    delete_ns = given.delete_ns, delete_id = given.delete_id,
    created_ns = given.created_ns,
    pulled_ns = given.pulled_ns, left_ns = given.left_ns,
    size = given.size, media_type = given.media_type,
    config_media_type = given.config_media_type, artifact_type = given.artifact_type,
    subject = given.subject, subject_known = given.subject_known,
    blobs = given.blobs, children = given.children, claimed_ns = given.claimed_ns,
    read_by = given.read_by, present = given.present,
    sure_ns = given.sure_ns, sure_id = given.sure_id,
    heard_ns = given.heard_ns, heard_id = given.heard_id,
    dated_ns = given.dated_ns, dated_stamp = given.dated_stamp, odd = given.odd,
    first_ns = given.first_ns
FROM unnest($1::int[], $2::bytea[], $3::int8[], $4::bytea[], $5::int8[], $6::bytea[],
            $7::int8[], $8::bytea[], $9::int8[], $10::int8[], $11::int8[], $12::int8[],
            $13::text[], $14::text[], $15::text[], $16::bytea[], $17::bool[],
            $18::bytea[], $19::bytea[], $20::int8[], $21::int2[], $22::bool[], $23::int8[],
            $24::bytea[], $25::int8[], $26::bytea[], $27::int8[], $28::bytea[], $29::bytea[], $30::int8[])
  AS given(repository_id, digest, push_ns, push_id, seen_ns, seen_id, delete_ns, delete_id,
           created_ns, pulled_ns, left_ns, size, media_type, config_media_type, artifact_type,
           subject, subject_known, blobs, children, claimed_ns, read_by, present, sure_ns, sure_id,
           heard_ns, heard_id, dated_ns, dated_stamp, odd, first_ns)
WHERE m.repository_id = given.repository_id AND m.digest = given.digest
"""

CHANGE_TAGS = """
UPDATE tags t SET
    digest = given.digest, set_ns = given.set_ns, set_id = given.set_id,
    untag_ns = given.untag_ns, untag_id = given.untag_id,
    named_ns = given.named_ns, first_push_ns = given.first_push_ns, latest_ns = given.latest_ns,
    history_set_ns = given.set_ns, history_partial = given.history_partial, history = given.history,
    odd = given.odd
FROM unnest($1::int[], $2::text[], $3::bytea[], $4::int8[], $5::bytea[], $6::int8[], $7::bytea[],
            $8::int8[], $9::int8[], $10::int8[], $11::int8[], $12::bool[], $13::bytea[], $14::bytea[])
  AS given(repository_id, name, digest, set_ns, set_id, untag_ns, untag_id, named_ns, first_push_ns,
           latest_ns, history_set_ns, history_partial, history, odd)
WHERE t.repository_id = given.repository_id AND t.name = given.name
"""

# Only of what is new here a delete may have been counted as a manifest's.
ADD_BLOBS = """
WITH added AS (
  INSERT INTO repository_blobs (repository_id, digest)
  SELECT * FROM unnest($1::int[], $2::bytea[])
  ON CONFLICT DO NOTHING RETURNING repository_id, digest)
SELECT a.repository_id, a.digest FROM added a
CROSS JOIN LATERAL (
  SELECT FROM manifests m
  WHERE m.repository_id = a.repository_id AND m.digest = a.digest AND m.heard_ns IS NOT NULL LIMIT 1) m
"""

LOAD_BLOBS = """
SELECT b.repository_id, b.digest
FROM unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest)
JOIN repository_blobs b USING (repository_id, digest)
"""

LOAD_REPEATS = """
SELECT s.repository_id, s.name, s.set_ns, s.set_id, s.moment_ns, s.pushed
FROM unnest($1::int[], $2::text[]) AS wanted(repository_id, name)
JOIN tag_repeats s USING (repository_id, name)
"""

# The same set may be told again.
ADD_REPEATS = """
INSERT INTO tag_repeats (repository_id, name, set_ns, set_id, moment_ns, pushed)
SELECT * FROM unnest($1::int[], $2::text[], $3::int8[], $4::bytea[], $5::int8[], $6::bool[])
ON CONFLICT DO NOTHING
"""

# A tag that moved on: what it named before can never matter again. All of it where `since_ns` is null.
FORGET_REPEATS = """
DELETE FROM tag_repeats s
USING unnest($1::int[], $2::text[], $3::int8[], $4::bytea[])
  AS given(repository_id, name, since_ns, since_id)
WHERE s.repository_id = given.repository_id AND s.name = given.name
  AND (given.since_ns IS NULL OR (s.set_ns, s.set_id) < (given.since_ns, given.since_id))
"""

# -- bytes -------------------------------------------------------------------------------------

# What is held, and what storage said, of what is held or not.
# Each workspace with its part of all digests: an array costs its writer by its elements.
LOAD_HOLDINGS = """
SELECT given.workspace_id, given.digest, h.refs, h.names, h.size, h.stored, h.mixed, s.size AS told
FROM unnest($2::int[], $3::int[], $4::int[]) AS of(workspace_id, first, last)
CROSS JOIN LATERAL (
  SELECT of.workspace_id, digest FROM unnest(($1::bytea[])[of.first:of.last]) AS part(digest)) given
LEFT JOIN LATERAL (
  SELECT refs, names, size, stored, mixed FROM workspace_digests
  WHERE digest = given.digest AND workspace_id = given.workspace_id LIMIT 1) h ON true
LEFT JOIN LATERAL (
  SELECT size FROM stored_blobs WHERE digest = given.digest AND size >= 0 LIMIT 1) s ON true
WHERE h.refs IS NOT NULL OR s.size IS NOT NULL
"""

LOAD_HOLDERS = """
SELECT workspace_id, digest, refs, names, size, stored, mixed
FROM workspace_digests WHERE digest = ANY($1::bytea[])
"""

# `refs` stands in no index, so that one more reference stays in its page (a HOT update).
CHANGE_HOLDINGS = """
UPDATE workspace_digests h
SET refs = given.refs, names = given.names, size = given.size, stored = given.stored, mixed = given.mixed,
    released_at = CASE WHEN given.refs > 0 THEN NULL
                       WHEN given.released THEN $9::timestamptz ELSE h.released_at END
FROM unnest($1::bytea[], $2::int[], $3::int[], $4::int[], $5::int8[], $6::bool[], $7::bool[],
            $8::bool[])
  AS given(digest, workspace_id, refs, names, size, stored, mixed, released)
WHERE h.digest = given.digest AND h.workspace_id = given.workspace_id
"""

# Storage's word and a workspace's first use of the same blob may be written at the same moment by two
# transactions that lock no row in common. So every use locks its digest's share of all digests
# together with other uses, and storage's word locks it alone: whichever comes second waits for the
# first and sees what it wrote. In order of share, after the workspaces' rows: no deadlocks.
LOCK_DIGESTS = """
SELECT CASE WHEN alone THEN pg_advisory_xact_lock(5922, share)
            ELSE pg_advisory_xact_lock_shared(5922, share) END
FROM unnest($1::int[], $2::bool[]) AS given(share, alone)
"""

# Below 0 are claims that the version before left here, or writes while both run.
LOAD_STORED = """
SELECT digest, size FROM stored_blobs WHERE digest = ANY($1::bytea[]) AND size >= 0
"""

LOAD_WORDS = """
SELECT digest, coalesce(word, 1) AS word, coalesce(asked_ns, -1) AS asked_ns, size
FROM stored_blobs WHERE digest = ANY($1::bytea[]) AND size >= 0
"""

# The greatest, so that the order in which storage's words come plays no part.
SAVE_STORED = """
INSERT INTO stored_blobs AS s (digest, word, asked_ns, size)
SELECT * FROM unnest($1::bytea[], $2::int2[], $3::int8[], $4::int8[])
ON CONFLICT (digest) DO UPDATE
SET word = excluded.word, asked_ns = excluded.asked_ns, size = excluded.size
WHERE s.size < 0
   OR (coalesce(s.word, 1), coalesce(s.asked_ns, -1), s.size)
      < (excluded.word, excluded.asked_ns, excluded.size)
"""

# Of which only an event tells.
TOLD_ONLY = """
SELECT digest FROM stored_blobs WHERE digest = ANY($1::bytea[]) AND word IS DISTINCT FROM 2
"""

# By primary key, once for each repository of the workspace. Its document, where it was read, wins.
DOCUMENT_SIZE = """
SELECT m.size FROM repositories r
JOIN manifests m ON m.repository_id = r.id AND m.digest = $2
WHERE r.workspace_id = $1 AND m.present
ORDER BY m.subject_known DESC, m.size DESC LIMIT 1
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

# -- offsets -------------------------------------------------------------------------------------

# A new owner takes a new epoch: from now on a batch of the previous owner is refused.
TAKE_PARTITION = """
INSERT INTO consumer_offsets (cluster_id, topic, partition, epoch, next_offset, owner)
VALUES ($1, $2, $3, 1, $4, $5)
ON CONFLICT (cluster_id, topic, partition) DO UPDATE
SET epoch = consumer_offsets.epoch + 1, owner = excluded.owner, changed_at = now()
RETURNING epoch, next_offset, head_offset, head_ms, head_digest, anchor_offset, anchor_ms, anchor_digest
"""

# Where the ledger stood in the cluster that it read before this one, until that has been told.
OTHER_CLUSTER = """
SELECT next_offset FROM consumer_offsets
WHERE topic = $2 AND partition = $3 AND cluster_id <> $1
  AND NOT EXISTS (SELECT FROM log_breaks WHERE (cluster_id, topic, partition) = ($1, $2, $3))
ORDER BY changed_at DESC LIMIT 1
"""

ADVANCE_OFFSETS = """
UPDATE consumer_offsets o
SET next_offset = given.next_offset, changed_at = now(),
    head_offset = given.next_offset - 1, head_ms = given.head_ms, head_digest = given.head_digest
FROM unnest($3::int[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::bytea[])
  AS given(partition, epoch, expected_offset, next_offset, head_ms, head_digest)
WHERE o.cluster_id = $1 AND o.topic = $2 AND o.partition = given.partition
  AND o.epoch = given.epoch AND o.next_offset = given.expected_offset
"""

RESET_OFFSET = """
UPDATE consumer_offsets
SET next_offset = $5, changed_at = now(), head_offset = NULL, head_ms = NULL, head_digest = NULL,
    anchor_offset = NULL, anchor_ms = NULL, anchor_digest = NULL
WHERE cluster_id = $1 AND topic = $2 AND partition = $3 AND epoch = $4
"""

KEEP_ANCHORS = """
UPDATE consumer_offsets o
SET anchor_offset = given.stands_at, anchor_ms = given.ms, anchor_digest = given.digest
FROM unnest($3::int[], $4::int8[], $5::int8[], $6::int8[], $7::bytea[])
  AS given(partition, epoch, stands_at, ms, digest)
WHERE o.cluster_id = $1 AND o.topic = $2 AND o.partition = given.partition AND o.epoch = given.epoch
"""

ADD_LOG_BREAKS = """
INSERT INTO log_breaks (cluster_id, topic, partition, kind, stored_offset, first_offset, end_offset,
                        resumed_offset, found_at)
SELECT $1, $2, partition, kind, stored_offset, first_offset, end_offset, resumed_offset, $9
FROM unnest($3::int[], $4::text[], $5::int8[], $6::int8[], $7::int8[], $8::int8[])
  AS given(partition, kind, stored_offset, first_offset, end_offset, resumed_offset)
"""

# -- what the registry is to be asked later -----------------------------------------------------

# Two sets of one tag stood close together: only the registry knows which one holds.
ADD_TAG_CHECKS = """
INSERT INTO tag_checks (repository_id, tag, due_at)
SELECT repository_id, tag, $3 FROM unnest($1::int[], $2::text[]) AS given(repository_id, tag)
ON CONFLICT (repository_id, tag) DO UPDATE
SET due_at = excluded.due_at, attempts = 0
"""

# Only an event tells that they are gone.
ADD_MANIFEST_CHECKS = """
INSERT INTO manifest_checks (repository_id, digest, due_at)
SELECT repository_id, digest, $3 FROM unnest($1::int[], $2::bytea[]) AS given(repository_id, digest)
ON CONFLICT (repository_id, digest) DO UPDATE
SET due_at = excluded.due_at, attempts = 0
"""

# One row for a whole batch, and none where storage has spoken of every blob already.
ADD_SIZE_CHECK = "INSERT INTO size_checks (manifests, due_at, attempts) VALUES ($1, $2, $3)"

# -- observations --------------------------------------------------------------------------------

# When what is observed in this transaction arrived: nanoseconds. Its `recorded_at` says the same.
ARRIVED = "SELECT (extract(epoch FROM now()) * 1000000000)::int8"

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

# A manifest in which the rules of today find what earlier ones found, or that cannot be read any more.
MARK_READ = """
UPDATE manifests m SET read_by = $3, fetch_attempts = NULL, fetch_after = NULL
FROM unnest($1::int[], $2::bytea[]) AS given(repository_id, digest)
WHERE m.repository_id = given.repository_id AND m.digest = given.digest AND m.read_by IS NULL
"""
