package mysql_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/participant/mysql"
)

const secret = "hunter2"

func TestConfigPrintsNoSecret(t *testing.T) {
	var log bytes.Buffer
	for _, dsn := range []string{
		"app:" + secret + "@tcp(db.example:3306)/bank?charset=" + secret,
		"app:" + secret + "@tcp(db.example:3306/bank",
		"app:" + secret,
	} {
		c := mysql.Config{Name: "bank_a", DSN: dsn}
		slog.New(slog.NewTextHandler(&log, nil)).Info("resource", "config", c)
		texts := []string{c.String(), fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, c),
			fmt.Sprint(c.Validate()), log.String()}
		if r, err := mysql.New(c); err == nil {
			texts = append(texts, fmt.Sprint(r), fmt.Sprintf("%+v", r))
			r.Close()
		}
		for _, text := range texts {
			if strings.Contains(text, secret) {
				t.Errorf("the password shows in %q", text)
			}
		}
		if !strings.Contains(c.String(), "bank_a") {
			t.Errorf("%q does not name the resource", c.String())
		}
	}
}

func TestConfigValidateNamesAllFaults(t *testing.T) {
	err := mysql.Config{Name: strings.Repeat("x", 64), DSN: "nonsense", MaxConns: 65,
		ConnectTimeout: -time.Second}.Validate()
	if err == nil {
		t.Fatal("nonsense was accepted")
	}
	for _, field := range []string{"Name", "DSN", "MaxConns", "ConnectTimeout"} {
		if !strings.Contains(err.Error(), "mysql: "+field) {
			t.Errorf("%s is not mentioned: %v", field, err)
		}
	}
	if err := (mysql.Config{Name: "a", DSN: "u@tcp(h:1)/"}).Validate(); err == nil {
		t.Error("an address without a database was accepted")
	}
	good := mysql.Config{Name: strings.Repeat("x", 63), DSN: "u@tcp(h:1)/d", MaxConns: 64}
	if err := good.Validate(); err != nil {
		t.Errorf("at the limits: %v", err)
	}
}
