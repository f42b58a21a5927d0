package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/postgres"
	"github.com/sealwright/sealwright/storage/storagetest"
)

func place(t testing.TB) storagetest.Place { return placeAt(storagetest.Postgres(t)) }

func placeAt(dsn string) storagetest.Place {
	return storagetest.Place{
		Create:    func(ctx context.Context) (*storage.DB, error) { return postgres.Create(ctx, dsn) },
		Open:      func(ctx context.Context) (*storage.DB, error) { return postgres.Open(ctx, dsn) },
		Raw:       func(t testing.TB) *sql.DB { return raw(t, dsn) },
		Transient: &pgconn.PgError{Severity: "ERROR", Code: "40001", Message: "could not serialize access"},
	}
}

func raw(t testing.TB, dsn string) *sql.DB {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestSuite(t *testing.T) { storagetest.Run(t, place) }

// TestStartTogether: of many servers that create at once, one does, and of many
// that open at once, all do.
func TestStartTogether(t *testing.T) {
	dsn := storagetest.Postgres(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created := 0
	for range 6 {
		wg.Go(func() {
			db, err := postgres.Create(t.Context(), dsn)
			if err == nil {
				db.Close()
				mu.Lock()
				created++
				mu.Unlock()
			} else if !errors.Is(err, key.ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if created != 1 {
		t.Errorf("%d created the store", created)
	}
	for range 6 {
		wg.Go(func() {
			db, err := postgres.Open(t.Context(), dsn)
			if err != nil {
				t.Error(err)
				return
			}
			db.Close()
		})
	}
	wg.Wait()
}

func TestRefusesOtherTables(t *testing.T) {
	dsn := storagetest.Postgres(t)
	if _, err := raw(t, dsn).Exec("CREATE TABLE guests (name text)"); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Create(t.Context(), dsn); !errors.Is(err, key.ErrExists) {
		t.Errorf("got %v", err)
	}
}

func TestRefusesEarlyAcknowledgement(t *testing.T) {
	dsn := storagetest.Postgres(t)
	db, err := postgres.Create(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := raw(t, dsn).Exec("DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET synchronous_commit = off'; END $$"); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), dsn); !errors.Is(err, key.ErrUnsupported) || !strings.Contains(err.Error(), "synchronous_commit") {
		t.Errorf("got %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := postgres.Open(t.Context(), "host="+t.TempDir()+" user=nobody password=hunter2 dbname=none")
	if !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := postgres.Open(t.Context(), "postgres://u:hunter2@[::1/x"); !errors.Is(err, key.ErrInvalid) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCommit(b *testing.B) { storagetest.Bench(b, place) }
