package server

import "testing"

// TestOneVerificationAtATime: the whole log is not read for many at once.
func TestOneVerificationAtATime(t *testing.T) {
	h := newHouse(t)
	h.verifying <- struct{}{}
	refusal{"a second verification", "POST", "/v1/audit/verify", "", nil, 503, "busy", "retry"}.check(t, h.admin)
	<-h.verifying
	h.admin.must(200, "POST", "/v1/audit/verify", "")
}

// TestOnePolicyTextAtATime: reading a policy text costs seconds of a processor,
// so callers who bring texts along get one at a time, and the others go on.
func TestOnePolicyTextAtATime(t *testing.T) {
	h := newHouse(t)
	const question = `{"principal":"service/a","action":"kms:Decrypt","object":"dev/a/b"`
	const text = `,"text":"permit (principal, action, resource);"}`
	h.parsing <- struct{}{} // somebody's text is being read
	refusal{"a second text", "POST", "/v1/policy/explain", question + text, nil, 503, "busy", "retry"}.check(t, h.admin)
	h.admin.must(200, "POST", "/v1/policy/explain", question+`}`)
	<-h.parsing
	h.admin.must(200, "POST", "/v1/policy/explain", question+text)
}
