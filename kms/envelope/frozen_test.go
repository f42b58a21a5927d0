package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/key"
)

// vector is one file of testdata/v1. The files were written once, when the
// format was laid down; they are never written again. If this test fails, the
// code is wrong.
type vector struct {
	Key       []byte            `json:"key"`
	Nonce     []byte            `json:"nonce"`
	ObjectID  key.ID            `json:"object_id"`
	Version   uint32            `json:"version"`
	Context   map[string]string `json:"context"`
	Plaintext []byte            `json:"plaintext"`
	Text      string            `json:"ciphertext"`
}

func TestFrozen(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "v1", "*.json"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v vector
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		k, err := NewKey(v.Key)
		if err != nil {
			t.Fatal(err)
		}
		ciphertext, err := ParseText(v.Text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if h, err := Parse(ciphertext); err != nil || h.ObjectID != v.ObjectID || h.Version != v.Version {
			t.Errorf("%s: header %+v, %v", file, h, err)
		}
		if opened, err := k.Open(ciphertext, v.Context); err != nil || !bytes.Equal(opened, v.Plaintext) {
			t.Errorf("%s opens to %q, %v", file, opened, err)
		}
		again, err := k.seal(v.Nonce, Header{ObjectID: v.ObjectID, Version: v.Version}, v.Plaintext, v.Context)
		if err != nil || !bytes.Equal(again, ciphertext) {
			t.Errorf("%s: sealed again it is %s, %v", file, Text(again), err)
		}
		if _, err := k.Open(ciphertext, map[string]string{"another": "context"}); !errors.Is(err, key.ErrInvalidCiphertext) {
			t.Errorf("%s opens with another context: %v", file, err)
		}
	}
}
