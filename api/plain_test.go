package api

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzDecodePlain: what is read without encoding/json is read as encoding/json would.
func FuzzDecodePlain(f *testing.F) {
	for _, body := range plainBodies {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		checkPlain[EncryptRequest](t, body)
		checkPlain[DecryptRequest](t, body)
		checkPlain[DataKeyRequest](t, body)
	})
}

var plainBodies = []string{
	`{"plaintext":"c2VjcmV0","context":{"tenant":"42","a":""}}`,
	`{"ciphertext":"sw1:AAAA","context":{}}`,
	" {\n\t\"plaintext\" : true , \"context\" : { \"a\" : \"b\" } }\r\n",
	`{"plaintext":false}`, `{"plaintext":""}`, `{}`,
	// Not plain, right or wrong.
	`{"plaintext":"c2V\u0063cmV0"}`, `{"Plaintext":"c2VjcmV0"}`, `{"plaintext":null}`, `{"plaintext":"c2VjcmV0","plaintext":""}`,
	`{"context":{"a":"1"},"context":{"b":"2"}}`, `{"context":{"a":"1","a":"2"}}`, `{"context":{"a":"1"},"other":1}`, `{"plaintext":truefalse}`,
	`{"plaintext":true}x`, `{"plaintext":"c2VjcmV0"`, `{"plaintext":"%"}`, `{"context":{"ä":"ö"}}`, `{"context":{"a":1}}`, `{"ciphertext":"a",}`, `[]`, ``, `nul`,
}

func checkPlain[T any](t *testing.T, body []byte) {
	t.Helper()
	var fast, want T
	wantErr := Decode(bytes.NewReader(body), int64(len(body)), &want)
	if decodePlain(body, any(new(T)).(plainFields)) && wantErr != nil {
		t.Errorf("%T: %q was read, but %v", want, body, wantErr)
	}
	err := DecodeBytes(body, &fast)
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
		t.Errorf("%T: %q: %v, not %v", want, body, err, wantErr)
	}
	if err == nil && !reflect.DeepEqual(fast, want) {
		t.Errorf("%q: %+v, not %+v", body, fast, want)
	}
}

// TestPlain: the forms that clients send need no encoding/json.
func TestPlain(t *testing.T) {
	for _, c := range []struct {
		body string
		into plainFields
	}{
		{plainBodies[0], &EncryptRequest{}},
		{plainBodies[1], &DecryptRequest{}},
		{plainBodies[2], &DataKeyRequest{}},
	} {
		if !decodePlain([]byte(c.body), c.into) {
			t.Errorf("%q was left to encoding/json", c.body)
		}
	}
}

func BenchmarkDecodeBytes(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var in EncryptRequest
		if err := DecodeBytes([]byte(plainBodies[0]), &in); err != nil {
			b.Fatal(err)
		}
	}
}
