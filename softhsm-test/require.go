package softhsmtest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Require skips the test with reason unless component is present. Where
// SEALWRIGHT_TEST_REQUIRE, a comma list such as "softhsm,swtpm,postgres",
// names the component, a skip would hide a hole: then the test fails.
func Require(t testing.TB, component string, present bool, reason string) {
	t.Helper()
	if present {
		return
	}
	if required(os.Getenv("SEALWRIGHT_TEST_REQUIRE"), component) {
		t.Fatalf("SEALWRIGHT_TEST_REQUIRE names %s, which is not here: %s", component, reason)
	}
	t.Skipf("without %s: %s", component, reason)
}

func required(list, component string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(s string) bool { return strings.TrimSpace(s) == component })
}
