-- Accounts. The product document's User, without device_token: devices live in Redis (docs/decisions/0033).
-- Addresses are stored in the ASCII form that domain.normalise_email gives them, so bytes compare.
CREATE TABLE users (
    id BIGINT NOT NULL AUTO_INCREMENT,
    email VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    password VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'argon2id, PHC string',
    password_version INT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'sessions of an older version have ended',
    roles SET('buyer', 'organizer', 'operator') NOT NULL,
    create_time DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (id),
    UNIQUE KEY users_email (email)
) ENGINE = InnoDB;
