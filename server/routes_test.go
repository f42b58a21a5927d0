package server

import (
	"testing"

	"github.com/sealwright/sealwright/api"
)

// Every route has a handler and every handler a route.
func TestRoutesAndHandlers(t *testing.T) {
	byName := handlers()
	for _, r := range api.Routes() {
		if byName[r.Name] == nil {
			t.Errorf("%s (%s) has no handler", r.Pattern, r.Name)
		}
		delete(byName, r.Name)
	}
	for name := range byName {
		t.Errorf("the handler %s has no route", name)
	}
}

func TestStatus(t *testing.T) {
	h := newHouse(t)
	var s api.Status
	decode(t, h.admin.must(200, "GET", "/v1/status", "").body, &s)
	if s.You.SPIFFEID != "spiffe://ops."+testDomain+"/user/admin" || len(s.Devices) != 1 || !s.Devices[0].Healthy || s.Mode != "dev" || s.Log.Size == 0 || s.Policy.Version != 1 {
		t.Errorf("%+v", s)
	}
}
