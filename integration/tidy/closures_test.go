package tidy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckClosuresFindsWhatIsLinked(t *testing.T) {
	linked := map[string][]string{
		"client": {"fmt", "example.com/store", "example.com/metrics/v2"},
		"server": {"fmt", "example.com/storefront"},
	}
	list := func(_ context.Context, dir string) ([]string, error) { return linked[dir], nil }
	got, err := CheckClosures(t.Context(), list, []Closure{
		{Package: "server", Without: []string{"example.com/store"}},
		{Package: "client", Without: []string{"example.com/store", "example.com/metrics"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"client:0: must not link example.com/metrics/v2",
		"client:0: must not link example.com/store",
	}
	if diff := cmp.Diff(want, texts(got)); diff != "" {
		t.Error(diff)
	}
}

func TestCheckClosuresReportsAListThatFails(t *testing.T) {
	broken := errors.New("broken")
	list := func(context.Context, string) ([]string, error) { return nil, broken }
	_, err := CheckClosures(t.Context(), list, []Closure{{Package: "client"}})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "client") {
		t.Errorf("got %v", err)
	}
}

func TestGoListTellsWhatAPackageLinks(t *testing.T) {
	got, err := GoList(root)(t.Context(), "txn")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"errors", "github.com/google/uuid"} {
		if !slices.Contains(got, want) {
			t.Errorf("txn links %s, and the list does not say so: %v", want, got)
		}
	}
	if slices.Contains(got, "testing") {
		t.Error("the list holds what only tests import")
	}
}

func TestGoListNamesAMissingPackage(t *testing.T) {
	_, err := GoList(root)(t.Context(), "no/such/package")
	if err == nil || !strings.Contains(err.Error(), "no/such/package") {
		t.Errorf("got %v", err)
	}
}

func TestParseListRefusesGarbage(t *testing.T) {
	if _, err := parseList(strings.NewReader(`{"ImportPath":"a"} {`)); err == nil {
		t.Error("half an object was taken for the end")
	}
}
