"""The first schema: queues, messages, keys, the event log, counters, accounts.

Written by hand, because CHECKs and partial indexes are carried over by neither Tortoise
nor aerich. One file serves both databases; they differ in the names of a few types.
"""

from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True

POSTGRES = {"UUID": "UUID", "BOOL": "BOOLEAN", "YES": "TRUE", "SERIAL": "SERIAL PRIMARY KEY"}
SQLITE = {
    "UUID": "CHAR(36)",
    "BOOL": "INT",
    "YES": "1",
    "SERIAL": "INTEGER PRIMARY KEY AUTOINCREMENT",
}

SCHEMA = """
CREATE TABLE queues (
    id {SERIAL},
    name VARCHAR(64) NOT NULL,
    description TEXT NOT NULL,
    lease_seconds INT NOT NULL CHECK (lease_seconds BETWEEN 1 AND 43200),
    max_attempts INT NOT NULL CHECK (max_attempts BETWEEN 1 AND 100),
    max_lost_leases INT NOT NULL CHECK (max_lost_leases BETWEEN 1 AND 100),
    backoff_seconds INT NOT NULL CHECK (backoff_seconds BETWEEN 0 AND 900),
    retention_days INT NOT NULL CHECK (retention_days BETWEEN 1 AND 3650),
    paused_at BIGINT,
    version INT NOT NULL CHECK (version > 0),
    last_claim_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX queues_live_name ON queues (name) WHERE deleted_at IS NULL;

CREATE TABLE messages (
    id {UUID} NOT NULL PRIMARY KEY,
    queue_id INT NOT NULL,
    status VARCHAR(10) NOT NULL CHECK (status IN
        ('pending', 'processing', 'completed', 'failed', 'cancelled', 'expired')),
    version INT NOT NULL CHECK (version > 0),
    customer VARCHAR(64) NOT NULL,
    items TEXT NOT NULL,
    total_cents BIGINT CHECK (total_cents >= 0),
    currency VARCHAR(3) NOT NULL,
    reference VARCHAR(64),
    idempotency_key VARCHAR(255),
    metadata TEXT NOT NULL,
    priority SMALLINT NOT NULL CHECK (priority BETWEEN 0 AND 9),
    "group" VARCHAR(64),
    attempts INT NOT NULL CHECK (attempts >= 0),
    lost_leases INT NOT NULL CHECK (lost_leases >= 0),
    available_at BIGINT NOT NULL,
    entered_at BIGINT NOT NULL,
    expires_at BIGINT,
    cancel_requested_at BIGINT,
    lease_epoch INT NOT NULL CHECK (lease_epoch >= 0),
    receipt VARCHAR(32),
    worker VARCHAR(100),
    lease_expires_at BIGINT,
    last_error TEXT,
    result TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    finished_at BIGINT,
    CONSTRAINT messages_lease CHECK ((status = 'processing') = (lease_expires_at IS NOT NULL)),
    CONSTRAINT messages_leased CHECK (status <> 'processing' OR receipt IS NOT NULL),
    CONSTRAINT messages_cancel CHECK (cancel_requested_at IS NULL OR status = 'processing'),
    CONSTRAINT messages_finished CHECK
        ((status IN ('pending', 'processing')) = (finished_at IS NULL))
);
CREATE INDEX messages_claim ON messages (queue_id, priority, available_at, entered_at, id)
    WHERE status = 'pending';
CREATE INDEX messages_reap ON messages (lease_expires_at) WHERE status = 'processing';
CREATE INDEX messages_expire ON messages (expires_at)
    WHERE status = 'pending' AND expires_at IS NOT NULL;
CREATE INDEX messages_finished_at ON messages (queue_id, finished_at)
    WHERE finished_at IS NOT NULL;
CREATE INDEX messages_listed ON messages (queue_id, status, id);
CREATE INDEX messages_customer ON messages (customer, id);

CREATE TABLE keys (
    id VARCHAR(400) NOT NULL PRIMARY KEY,
    fingerprint VARCHAR(64) NOT NULL,
    message {UUID} NOT NULL
);
CREATE INDEX keys_message ON keys (message);

CREATE TABLE events (
    seq BIGINT NOT NULL PRIMARY KEY,
    type VARCHAR(32) NOT NULL,
    subject VARCHAR(110) NOT NULL,
    message {UUID},
    queue VARCHAR(64),
    from_queue VARCHAR(64),
    customer VARCHAR(64),
    data TEXT NOT NULL,
    detail TEXT,
    batch {UUID} NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX events_message ON events (message, seq) WHERE message IS NOT NULL;
CREATE INDEX events_created_at ON events (created_at);

CREATE TABLE stream (
    id SMALLINT NOT NULL PRIMARY KEY CHECK (id = 1),
    head BIGINT NOT NULL,
    at BIGINT NOT NULL,
    epoch VARCHAR(16) NOT NULL,
    floor BIGINT NOT NULL,
    swept BIGINT NOT NULL,
    queues_version BIGINT NOT NULL,
    revocations_version BIGINT NOT NULL,
    home VARCHAR(128) NOT NULL,
    CONSTRAINT stream_floor CHECK (swept BETWEEN 0 AND floor AND floor <= head)
);
INSERT INTO stream VALUES (1, 0, 0, '', 0, 0, 1, 1, '');

CREATE TABLE queue_counts (
    queue_id INT NOT NULL PRIMARY KEY REFERENCES queues (id),
    pending BIGINT NOT NULL DEFAULT 0 CHECK (pending >= 0),
    processing BIGINT NOT NULL DEFAULT 0 CHECK (processing >= 0),
    completed BIGINT NOT NULL DEFAULT 0 CHECK (completed >= 0),
    failed BIGINT NOT NULL DEFAULT 0 CHECK (failed >= 0),
    cancelled BIGINT NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
    expired BIGINT NOT NULL DEFAULT 0 CHECK (expired >= 0)
);

CREATE TABLE customers (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    email VARCHAR(254) UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE accounts (
    id {SERIAL},
    username VARCHAR(64) NOT NULL UNIQUE,
    password_hash VARCHAR(255) NOT NULL,
    roles VARCHAR(64) NOT NULL,
    customer VARCHAR(64),
    active {BOOL} NOT NULL DEFAULT {YES},
    generation INT NOT NULL DEFAULT 1,
    ticket_generation INT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT
);

CREATE TABLE revocations (
    id VARCHAR(120) NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX revocations_expires_at ON revocations (expires_at);

INSERT INTO queues (name, description, lease_seconds, max_attempts, max_lost_leases,
    backoff_seconds, retention_days, version, created_at, updated_at)
    SELECT 'orders', '', 30, 10, 5, 1, 30, 1, {NOW}, {NOW};
INSERT INTO queue_counts (queue_id) SELECT id FROM queues WHERE name = 'orders';
"""

# The counters and the head row are rewritten by every transaction: room on their pages keeps
# those updates in place. Events are append-only and never need it.
POSTGRES_TUNING = """
ALTER TABLE stream SET (fillfactor = 10, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0);
ALTER TABLE queue_counts SET (fillfactor = 50);
ALTER TABLE messages SET (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05);
"""


async def upgrade(db: BaseDBAsyncClient) -> str:
    if db.capabilities.dialect == "postgres":
        now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        return SCHEMA.format(**POSTGRES, NOW=now) + POSTGRES_TUNING
    now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    return SCHEMA.format(**SQLITE, NOW=now)


async def downgrade(db: BaseDBAsyncClient) -> str:
    tables = [
        "revocations",
        "accounts",
        "customers",
        "queue_counts",
        "stream",
        "events",
        "keys",
        "messages",
        "queues",
    ]
    return "\n".join(f"DROP TABLE {table};" for table in tables)


# What the models looked like, for aerich to compare with.
MODELS_STATE = (
    "eJztXWlz27oV/SsYfWkyo2Zsea3b6Yyt6OX51Uue7bSZqTs0RF5JrEmAAUDbmtf8915AlE"
    "SJS0RqsczwS2IBOCB4ANwNC/9o+NwBT344tW0eMtU4IX80GPUB/5jPapIGDYJphk5QtOuZ"
    "snRUyCTSrlSC2rqyHvUkYJID0hZuoFzOdOl/DTjx6ZBIt8+Iyz5olMNthLmsn1UgZO63EC"
    "zF+6AGILDYv/+DyS5z4AXk+GfwaPVc8JyZN3EdXYFJt9QwMGnnTP1iCupndy2be6HPpoWD"
    "oRpwNintjgjoAwNBFejqlQj1q7HQ8yIWxm87aum0yKiJMYwDPRp6miCNHjVgmtawrKvrO+"
    "u2c2dZjQR5Y0SMrijJ5kwT7+pu0G/f1034c2t3/2j/eO9w/xiLmGZOUo6+jx49JWYENPRc"
    "3TW+m3yq6KiE4XhKaihBmL8T1LYHVKRzG8fMMYxNn2d4zOf2UuzTF8sD1lcD/Hm4n8PnP0"
    "9v2r+e3rw73H+vH8hxgoxmzlWU0zJZmvIpxQGV8pkLxxpQOSjCcwK4GrLHCVO2pxN843S3"
    "Dg4W4BtLZRJu8mYZF9wDWYTpCaCCDK9+QNuhVNwHUYThOKYUyZFE+Fk4Rs3rPqVI5TOOQ5"
    "WydJKnoDmKu4ha10Aei+o1kJxD6tn19YWu2Zfym2cSzu/m2P1yeda5ebdrSMdCroK4SpxS"
    "HZGi27a4fTEL+rGdsSq2d7fazpiSqlz7EZRVittUbE3xPMW2AP3mFlUpYsLtZ9I7i9scr+"
    "u3kv/Sau3tHbV29g6PD/aPjg6OdyYcJ7PyyD47/6T5npEnyQ7wqFSWBGCFu2AeWaoTtk0j"
    "bqwPtIfYe4y5MzqhS+3HZ4rGciKHt3hW2WSW3/LnUyijfUOnfm/d4Milbo9NmhR3ux0zd7"
    "L97bFRtKDD/RlLckY9or054qGqlwR9aCDU4wz+SuAJBA4k7CSCTwIy4PgaBN1s4jpJ73zp"
    "2lbsymfbjqm+fO1pjo3GbOcefOp6RZieAKpnorcOFqEbS+U4mklPqFbBP6347zxBeqh1lJ"
    "Er+EEXWVDqXzPALFt9IHcoe00VxJWEh6rLX5pk4KIOEcMmERB4OtjKQ2GjEGcO8XH0CBcl"
    "fI8LTKDeEC1rmdQEa3nCEtpBwrdi0ykCrGYebUO4dyOGbLbeMAwWUBvj8hWMnu21FtAae6"
    "1MpaGzZnWGDLv/BTtFYWTzG4NUkOLd3Z0FOMZSmSSbvFmWfZAS5XaS5S9fzj+msxyDzLEc"
    "hmjyauDbM4JymB0N3UPDasCl6guTaRiaYxNfJSwkESaA6hmSq4/19gT3rcIUz6Jqnut1i2"
    "3gWNsUSX7v4CXDdBuXr4ReyyHzrvP1bma9Ykziu8vTr4ZffxjlXFxffRoXj5Hevrg+mycb"
    "VKqDn0P3BFGFwbxpvrtU2Skr+NkmxQSwhEHxhgZ5AYuijpz8vJGTf8CwkRI30cnNvKjJIw"
    "wXjJmcMuI64AdcAbOHBIEfyDkjNApu8B5xlST8mZ1gWo8L/U6EgasjFQQHm4doSRgXOrMP"
    "KiVosp5H1DH15Qya/Z1FfEkslWnSmLz88EgP2wMiEJG4Wdhgn4VVwuJZtzn5am78thFdXu"
    "tuidC/jLolRfBfTnssW/hH3bqoAiBBKOwBlYBSGeWw6+iItl685MIB8Sed0sTfgof9AaGe"
    "R4wnnSbny9Z0z+7ZgwAbsFUPJlr+8MzFI4gH0gWPsz5R3NTjAVZ+QiQo0h2isrA96vpN/A"
    "+oAEenmaVY4vMnQABV9wyYg89VTQIvNgQGp2tC2ygAoRWO+cshEWmonSAwjfaJ5KYOLOPh"
    "6CfYt/gihOH/9wxfTCoXX4HaulqsIGT429TN0KcYNW0diip7OqcqqqVm8o/VVeNvvZDZei"
    "wR8yT9z/7fG1s3tfOUlBmFVqE983FIlSzrle24koqqMGNjcYeFvqH1HJtAmQ3JKP4Evc2q"
    "v/G5c/Xx/OrTCQlQyiC79+zzzXW7c3s7ShTcRqFi0tvXl58vOnedjydo0PqBB9j2e/bL6f"
    "mFTupR19O/26dX7c6FSbI1L55J7Xz9fH6j0+AlcFHMzcvdhRYOFlo3yFk2SKwaoJyVxfYq"
    "xhD1lEnbpPgaMdetI3XNVrKrwE8RS9lhwAmgEvRuOgyouKKeZY+3cCwevJoD1rs+y+68tU"
    "MhdNilmFSZYiox7Oc2KiyyTyF7m0LiCBX0QNNVaElyBlSFBYa1C+5pBNF6hELDOQVaPcbX"
    "cjrQB0WLLlPGMZUQHpvWmYFwuXBVyhC/9annZarMOK5KBvZe6+hwoiL1jzyleHt5enGRcn"
    "BN8DAoIjMmgOpJijWcwFRoJAdpJl7mYI1DqjRYV+YNelwqy8Q7i9A6h6qZTWGWPlHXvGvh"
    "FfV5ZJXo3bBbgo4d2r/FNzXM4uoOKN8BJpgoi3fADK72y0v75SbAawlADmSp7T3pFdQ9Ur"
    "ZHjNq0IOBpG9eyNe4sqkoSaWUaN1raLRYfmUCqZ4Gv/qTMaLm8CMFTRPX43V1oa9Nuztam"
    "3Z3Eglc00UuqzTR0LapLi2p9KQQIwVOGfHZkahZVhWG/6dAUjl3d/gKcTxE138X5rrd+v7"
    "KgCQOnVAfM4uoOKN0BPZe5clCiB+aAta59g6cffjdHNlO2wf4+PsuZvQl2tLXUlFlgC6yu"
    "3xltRzX7T/WBBAlKYXfID6Rtrvo1F/8Ql5EH83iT+JC2C3a5yuprf7fr2t+iV/6u9rrf1x"
    "Y56z4DG2tWAatyDrY5qhuNiliWI39UAjbDKbTANI/bnG2zt7PVEiSmpHDOlFgSnYdt8BrP"
    "t8RsuYXRFOTm+D14I/Rqq433eiXEQgqyvoU2GQZXwHQjLIcOi7CbBNZSN8FuQENZwk+cgd"
    "VeYlk//Y0cB3krosKEqs0RwnIXJseh9aAuvUZfh1/r8OtP3QEOmKOKhTtgFldLoLcafG1n"
    "fSQtltv8YRjWKvKttF/5M8FGDccn8qW+IIZG4VR9Xtghz/rydX0eFivSd+1SR0dSr9/tvm"
    "8SzoAIrCJCJOOza6h/iZDtVpw9r3T8NjqbXdArmII2pz3W7GltWHVMj78XpH4GV7Nf0nQd"
    "3zJQ0HKNw2ruS65Zm+scCi5XTzA168tsqC5M/Ays5n6ZwwQFmY+Bat7fnHtwA0/cphFNCf"
    "cglpvrHohJuYW3atg4ZnQ0nHqj27nQUtNXf0GPCzBbLZTrg7lJkvquN2zqeybNV/Ka+vYu"
    "SnS4F236ngA5IIo/QsrnmNf2lPrSyiV3drcW2tndytnZ3frhpZV12G8r1MmrnE37eTtgS/"
    "TKrcJZ5KfplCgnV5/IaZmFvhYl+POJubNxoIM8vGf+Np+cIh7vj66x1NEej9uPpG8+/MdC"
    "vwtC6ogQeku+q0a3W6Z/K2rF9a9YfeTfJ1G1CFP5eySyVYXu1mIyaoyopVNp9VD42H6tDp"
    "bUx+lnYnM+jplxHLYKm2B3DxexQA+zDdDDxEeNPJ52kC03XDSG1KO69KiWz5B2Jjn364lj"
    "SE17adpHBzOszA1DefwnsXVHlO6IWOylXG9kVFB3SekuGfBiZ03G5auoZlvHC0V6jnMiPc"
    "fvt8evPQXh2oNGil8b5TTz/Fo6LfMjvzab7/pk2XbtTMgUutkTPlvMVmHOr+UOUz2pCjAc"
    "Fa8gu2u5FQWfqCDt406/3V5fZe0xmEDmWHZcW5H/Ec+Vb9FkyCFXk6Frzj7CN39arzn7FR"
    "NdwdlrK7Pv/wfnRyG2"
)
