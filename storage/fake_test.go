package storage

import (
	"database/sql"
	"errors"
	"maps"
	"slices"
	"testing"

	"context"
)

// server is a store whose every failure the test decides. It keeps rows as names.
type server struct {
	head    Head
	batches map[string]bool
	rows    map[string]bool

	remote  bool
	down    int     // connections to refuse
	commits []crash // what the next COMMITs do
	begins  []error // what the next BEGINs answer
	opened  int     // connections made
	pruned  int
}

// crash is a COMMIT that goes wrong.
type crash struct {
	err  error
	done bool // the server committed all the same
}

var (
	errGone    = errors.New("connection lost")
	errBusy    = errors.New("serialization failure")
	errNoSpace = errors.New("no space")
	errDisk    = errors.New("input/output error")
)

func (s *server) fault(err error) Fault {
	switch {
	case errors.Is(err, errGone):
		return FaultLost
	case errors.Is(err, errBusy):
		return FaultRetry
	case errors.Is(err, errNoSpace):
		return FaultFull
	case errors.Is(err, errDisk):
		return FaultIO
	}
	return FaultNone
}

func (s *server) connect(context.Context) (Conn, error) {
	if s.down > 0 {
		s.down--
		return nil, errGone
	}
	s.opened++
	return &fakeConn{server: s}, nil
}

// start returns a DB on the server, without the read pool that New needs.
func (s *server) start(t *testing.T) *DB {
	s.batches, s.rows, s.head.Epoch = map[string]bool{}, map[string]bool{}, 1
	db := &DB{
		engine: Engine{Connect: s.connect, Fault: s.fault, Remote: s.remote, Close: func() error { return nil }},
		limit:  defaultQueue, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	db.texts = texts{}
	db.epoch.Store(1)
	db.SetLog(fakeLog{})
	go db.run()
	t.Cleanup(func() { db.Close() })
	return db
}

type fakeLog struct{}

func (fakeLog) Append(_ *Tx, head Head, entries []Entry) ([]byte, error) {
	for _, e := range entries {
		head.Edge = append(head.Edge, e.Data...)
	}
	return head.Edge, nil
}

// fakeConn understands the committer's own statements and "put".
type fakeConn struct {
	server *server
	head   Head
	id     string
	rows   map[string]bool
	saved  map[string]bool
	open   bool
}

func (c *fakeConn) Begin() error {
	if len(c.server.begins) > 0 {
		err := c.server.begins[0]
		c.server.begins = c.server.begins[1:]
		if err != nil {
			return err
		}
	}
	c.head, c.id, c.rows, c.open = c.server.head, "", maps.Clone(c.server.rows), true
	c.head.Edge = slices.Clone(c.head.Edge)
	return nil
}

func (c *fakeConn) Do(query string) error {
	switch query {
	case "SAVEPOINT change":
		c.saved = maps.Clone(c.rows)
	case "ROLLBACK TO SAVEPOINT change":
		c.rows = c.saved
	}
	return nil
}

func (c *fakeConn) Exec(query string, args []any) (int64, error) {
	switch query {
	case "put":
		c.rows[args[0].(string)] = true
	case claimBatch:
		if c.server.batches[args[0].(string)] {
			return 0, nil
		}
		c.id = args[0].(string)
	case noteBatch:
		c.id = args[0].(string)
	case moveHead:
		c.head = Head{Size: args[0].(int64), Edge: args[1].([]byte), Epoch: args[2].(int64)}
	case pruneBatch:
		c.server.pruned++
	}
	return 1, nil
}

func (c *fakeConn) Query(string, []any) (*sql.Rows, error) { return nil, errors.New("no queries here") }
func (c *fakeConn) QueryRow(string, []any) *sql.Row        { return nil }
func (c *fakeConn) Head() (Head, error)                    { return c.head, nil }

func (c *fakeConn) Commit(last []Statement) error {
	for _, s := range last {
		if _, err := c.Exec(s.Query, s.Args); err != nil {
			return err
		}
	}
	var crash crash
	if len(c.server.commits) > 0 {
		crash = c.server.commits[0]
		c.server.commits = c.server.commits[1:]
	}
	if crash.err == nil || crash.done {
		c.server.head, c.server.rows = c.head, c.rows
		if c.id != "" {
			c.server.batches[c.id] = true
		}
	}
	c.open = false
	return crash.err
}

func (c *fakeConn) Rollback() error { c.open = false; return nil }
func (c *fakeConn) Close() error    { return nil }
