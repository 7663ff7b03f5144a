package xabranch

import "strings"

// Schema is the SQL that sets a server up, statement by statement. It needs an account that may
// create a database, and changes nothing that is there already.
func Schema() []string {
	return []string{
		`CREATE DATABASE IF NOT EXISTS gavel`,
		`CREATE TABLE IF NOT EXISTS gavel.identity (
			one TINYINT NOT NULL PRIMARY KEY,
			system BIGINT UNSIGNED NOT NULL,
			high BIGINT UNSIGNED NOT NULL DEFAULT 0,
			writes BIGINT UNSIGNED NOT NULL DEFAULT 0
		) ENGINE = InnoDB`,
		// UUID and RAND differ at every server; a number in this text would be that of all.
		`INSERT IGNORE INTO gavel.identity (one, system) VALUES (1, 1 |
			CAST(CONV(LEFT(SHA2(CONCAT(UUID(), RAND(), RAND()), 256), 15), 16, 10) AS UNSIGNED))`,
		`CREATE TABLE IF NOT EXISTS gavel.branch (
			number BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
			name VARBINARY(44) NOT NULL UNIQUE,
			db VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
			connection BIGINT UNSIGNED NOT NULL,
			user VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
			made TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
		) ENGINE = InnoDB`,
		`CREATE TABLE IF NOT EXISTS gavel.resolver (
			log BIGINT UNSIGNED NOT NULL,
			db INT UNSIGNED NOT NULL,
			epoch BIGINT UNSIGNED NOT NULL,
			instance VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
			PRIMARY KEY (log, db)
		) ENGINE = InnoDB`,
		`CREATE TABLE IF NOT EXISTS gavel.horizon (
			log BIGINT UNSIGNED NOT NULL,
			db INT UNSIGNED NOT NULL,
			low BIGINT UNSIGNED NOT NULL,
			PRIMARY KEY (log, db)
		) ENGINE = InnoDB`,
	}
}

// Grants is [ApplicationGrants] and [AdapterGrants].
func Grants(application, adapter string) []string {
	return append(ApplicationGrants(application), AdapterGrants(adapter)...)
}

// ApplicationGrants is the SQL that lets an account of applications run branches. Accounts are
// given as in GRANT, such as 'app'@'%', and are used as they are.
func ApplicationGrants(account string) []string {
	return []string{
		"GRANT SELECT ON gavel.identity TO " + account,
		"GRANT SELECT, INSERT ON gavel.branch TO " + account,
	}
}

// AdapterGrants is the SQL that lets an account finish branches. PROCESS shows it which sessions
// are just ending, and CONNECTION ADMIN lets it end the session of an application that keeps a
// decided branch to itself. It also needs some privilege, whichever, in its database, or cannot
// connect to that.
func AdapterGrants(account string) []string {
	return []string{
		"GRANT SELECT, INSERT, UPDATE, DELETE ON gavel.* TO " + account,
		"GRANT PROCESS, CONNECTION ADMIN ON *.* TO " + account,
	}
}

// SetupText is the SQL of [Schema] as one text, to paste.
func SetupText() string { return strings.Join(Schema(), ";\n") + ";\n" }
