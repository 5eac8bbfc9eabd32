-- The ledger of inventory: the one place that decides who owns a ticket. All times are UTC, by MySQL's own clock
-- unless the column says otherwise. Only what MySQL 8 and MariaDB 10.11 have in common is used.

-- What tickets are sold for.
CREATE TABLE IF NOT EXISTS events (
    event_id           BIGINT            NOT NULL,
    name               VARCHAR(200)      NOT NULL,
    venue              VARCHAR(200)      NOT NULL,
    start_time         DATETIME(6)       NOT NULL,
    sale_open_time     DATETIME(6)       NOT NULL,
    sale_close_time    DATETIME(6)       NOT NULL,
    currency           CHAR(3)           CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    tickets_per_person SMALLINT UNSIGNED NOT NULL,
    seat_map_version   VARCHAR(64)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Seats of the map, kept here so that counting them needs no scan.
    seats_total        INT UNSIGNED      NOT NULL,
    published          BOOLEAN           NOT NULL DEFAULT FALSE,
    PRIMARY KEY (event_id),
    KEY events_by_opening (published, sale_open_time, event_id)
) ENGINE = InnoDB;

-- Immutable documents: a changed hall is a new version.
CREATE TABLE IF NOT EXISTS seat_maps (
    version  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    document LONGTEXT    NOT NULL,
    PRIMARY KEY (version)
) ENGINE = InnoDB;

-- One row per seat: id = event_id << 20 | seat index, so that the tickets of an event are one range of the primary
-- key. There is no secondary index on purpose: every reservation updates these rows, and each index would be paid then.
CREATE TABLE IF NOT EXISTS tickets (
    id         BIGINT         NOT NULL,
    event_id   BIGINT         NOT NULL,
    status     ENUM ('AVAILABLE', 'RESERVED', 'SOLD') NOT NULL DEFAULT 'AVAILABLE',
    price      DECIMAL(12, 2) NOT NULL,
    -- The single owner. NULL exactly when the ticket is AVAILABLE.
    booking_id VARCHAR(48)    CHARACTER SET ascii COLLATE ascii_bin NULL,
    PRIMARY KEY (id),
    CONSTRAINT ticket_has_owner CHECK ((status = 'AVAILABLE') = (booking_id IS NULL))
) ENGINE = InnoDB;

-- A booking is written when it is decided; PENDING is known to Redis and the event log only.
CREATE TABLE IF NOT EXISTS bookings (
    booking_id   VARCHAR(48)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    event_id     BIGINT            NOT NULL,
    user_id      BIGINT            NOT NULL,
    state        ENUM ('RESERVED', 'CONFIRMED', 'REJECTED', 'EXPIRED', 'CANCELLED', 'REFUNDED') NOT NULL,
    -- Decimal indexes, ascending, separated by commas: "17,18,19". At most eight.
    seat_indexes VARCHAR(120)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    ticket_count SMALLINT UNSIGNED NOT NULL,
    amount       DECIMAL(14, 2)    NOT NULL,
    currency     CHAR(3)           CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- SHA-256 of the request, to tell a repeat from another request with the same key.
    request_hash BINARY(32)        NOT NULL,
    -- RESERVED: pay before this.
    expire_time  DATETIME(6)       NOT NULL,
    -- When the hold was made, on Redis' clock.
    create_time  DATETIME(6)       NOT NULL,
    update_time  DATETIME(6)       NOT NULL,
    -- W3C trace context of the request.
    traceparent  VARCHAR(64)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
    PRIMARY KEY (booking_id),
    KEY bookings_of_user (user_id, create_time, booking_id),
    KEY bookings_of_person (event_id, user_id),
    KEY bookings_to_expire (state, expire_time)
) ENGINE = InnoDB;

-- One attempt to pay a booking. INTENT is written before the provider is asked.
CREATE TABLE IF NOT EXISTS payments (
    payment_id        BIGINT         NOT NULL AUTO_INCREMENT,
    booking_id        VARCHAR(48)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    idempotency_key   VARCHAR(128)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- SHA-256 of the payment method, which itself is a secret and is not kept.
    request_hash      BINARY(32)     NOT NULL,
    provider          VARCHAR(16)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- The idempotency key that the provider knows this attempt by.
    provider_key      VARCHAR(64)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    amount            DECIMAL(14, 2) NOT NULL,
    currency          CHAR(3)        CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state             ENUM ('INTENT', 'CAPTURED', 'DECLINED', 'REFUND_DUE', 'REFUNDED') NOT NULL,
    create_time       DATETIME(6)    NOT NULL,
    update_time       DATETIME(6)    NOT NULL,
    -- Set while the attempt may cost the buyer money: its unique key allows one such attempt per booking.
    active_booking_id VARCHAR(48)    CHARACTER SET ascii COLLATE ascii_bin
        AS (CASE WHEN state IN ('INTENT', 'CAPTURED') THEN booking_id END) STORED,
    PRIMARY KEY (payment_id),
    UNIQUE KEY payment_of_request (booking_id, idempotency_key),
    UNIQUE KEY payment_at_provider (provider_key),
    UNIQUE KEY one_active_payment (active_booking_id),
    KEY payments_to_complete (state, update_time)
) ENGINE = InnoDB;

-- The book of the dummy payment provider, written on a connection of its own as a remote provider would. A voided key
-- never charges.
CREATE TABLE IF NOT EXISTS dummy_charges (
    provider_key VARCHAR(64)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    amount       DECIMAL(14, 2) NOT NULL,
    currency     CHAR(3)        CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state        ENUM ('CAPTURED', 'DECLINED', 'VOIDED', 'REFUNDED') NOT NULL,
    -- How often money went back: more than once is a fault.
    refunds      INT UNSIGNED   NOT NULL DEFAULT 0,
    create_time  DATETIME(6)    NOT NULL,
    PRIMARY KEY (provider_key)
) ENGINE = InnoDB;
