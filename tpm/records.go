package tpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sealwright/sealwright/key"
)

// records is the directory that remembers which key has which label and id,
// because a TPM does not. A record is a file ID.json with the encoded key.Ref; ID.destroyed
// says that the key was destroyed. Losing the directory loses no key
// whose reference a store has.
type records struct {
	dir string
	one chan struct{} // serialises this process, so that only processes compete for the lock file
}

const (
	recordSuffix    = ".json"
	destroyedSuffix = ".destroyed"
)

func openRecords(dir string) (*records, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %w: make its parent directory first", key.ErrUnavailable, err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	case !info.IsDir():
		return nil, fmt.Errorf("%w: %s is not a directory", key.ErrUnavailable, dir)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%w: group or others may write to %s: chmod 700 it", key.ErrIntegrity, dir)
	}
	return &records{dir, make(chan struct{}, 1)}, nil
}

func (r *records) path(id key.ID, suffix string) string {
	return filepath.Join(r.dir, id.String()+suffix)
}

// lock keeps every other writer out, in this process and others, until unlock.
func (r *records) lock(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, queueWait)
	defer cancel()
	select {
	case r.one <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for the TPM's key directory: %w", key.ErrBusy, ctx.Err())
	}
	f, err := r.flock(ctx)
	if err != nil {
		<-r.one
		return nil, err
	}
	return func() { _ = f.Close(); <-r.one }, nil
}

func (r *records) flock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: locking the TPM's key directory: %w", key.ErrUnavailable, err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("%w: locking the TPM's key directory: %w", key.ErrUnavailable, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%w: another process holds the TPM's key directory: %w", key.ErrBusy, ctx.Err()), f.Close())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// find returns the record of id, checked.
func (r *records) find(id key.ID) (key.Ref, error) {
	ref, err := r.read(id)
	if err != nil {
		return key.Ref{}, err
	}
	if _, err := checkRef(ref); err != nil {
		return key.Ref{}, damaged(r.path(id, recordSuffix), err)
	}
	return ref, nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("%w: record %s is damaged: restore it from a backup: %w", key.ErrIntegrity, path, err)
}

// read returns the record of id as it is.
func (r *records) read(id key.ID) (key.Ref, error) {
	if r.destroyed(id) {
		return key.Ref{}, fmt.Errorf("%w: key %s was destroyed", key.ErrNotFound, id)
	}
	path := r.path(id, recordSuffix)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return key.Ref{}, fmt.Errorf("%w: no TPM key %s", key.ErrNotFound, id)
	}
	if err != nil {
		return key.Ref{}, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	ref, err := key.DecodeRef(b)
	if err == nil && ref.ID != id {
		err = errors.New("it is the record of another key")
	}
	if err != nil {
		return key.Ref{}, damaged(path, err)
	}
	return ref, nil
}

// destroyed reports whether id was destroyed here.
func (r *records) destroyed(id key.ID) bool {
	_, err := os.Lstat(r.path(id, destroyedSuffix))
	return err == nil
}

// free reports whether spec's id was never used and no living key has its label. The lock must be held.
func (r *records) free(spec key.Spec) error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("%w: reading the TPM's key directory: %w", key.ErrUnavailable, err)
	}
	for _, entry := range entries {
		name, isRecord := strings.CutSuffix(entry.Name(), recordSuffix)
		if !isRecord {
			name, _ = strings.CutSuffix(entry.Name(), destroyedSuffix)
		}
		id, err := key.ParseID(name)
		if err != nil {
			continue
		}
		if id == spec.ID {
			return fmt.Errorf("%w: a TPM key with id %s", key.ErrExists, id)
		}
		if !isRecord {
			continue
		}
		switch ref, err := r.read(id); {
		case errors.Is(err, key.ErrNotFound): // destroyed, and the record's removal was cut short
		case err != nil:
			return err // its label is not known, so no label is certainly free
		case ref.Label == spec.Label:
			return fmt.Errorf("%w: a TPM key with label %s: choose another, or destroy that key", key.ErrExists, spec.Label)
		}
	}
	return nil
}

// add records ref durably. A crash leaves the whole record or none. The lock must be held.
func (r *records) add(ref key.Ref) error {
	if err := r.write(r.path(ref.ID, recordSuffix), append(ref.Encode(), '\n')); err != nil {
		return fmt.Errorf("%w: recording the key, which is lost: %w", key.ErrUnavailable, err)
	}
	return nil
}

// destroy marks id as destroyed, then removes its record. The lock must be held.
func (r *records) destroy(id key.ID) error {
	if err := r.write(r.path(id, destroyedSuffix), nil); err != nil {
		return fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	if err := os.Remove(r.path(id, recordSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the key is refused from now on, but its record remains: %w", key.ErrUnavailable, err)
	}
	return syncDir(r.dir)
}

// write makes the file path with content, durably; it fails if path exists.
func (r *records) write(path string, content []byte) error {
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // left by a crash
	}
	f, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(draft, path) // unlike a rename, it never replaces
	}
	err = errors.Join(err, os.Remove(draft))
	if err == nil {
		err = syncDir(r.dir)
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
