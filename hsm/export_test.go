package hsm

import (
	"context"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// Steal lets a test do to the token what the world does, with no operation
// in flight: a C_Finalize that races with one crashes SoftHSM2.
func (d *Device) Steal(f func(lib *pkcs11.Ctx, slot uint, pinned pkcs11.SessionHandle)) {
	_ = d.token.gate.quiesce(context.Background())
	defer d.token.gate.reopen()
	_ = d.token.module.gate.quiesce(context.Background())
	defer d.token.module.gate.reopen()
	f(d.token.module.lib, d.token.slot, d.token.pinned)
}

// Confuse exchanges the remembered handles of two keys, as a device restart may.
func (d *Device) Confuse(a, b key.Ref) {
	t := d.token
	t.mu.Lock()
	defer t.mu.Unlock()
	ka, kb := objectKey{a.ID, classOf(a.Usage)}, objectKey{b.ID, classOf(b.Usage)}
	oa, ob := t.objects[ka], t.objects[kb]
	oa.handle, ob.handle = ob.handle, oa.handle
	t.objects[ka], t.objects[kb] = oa, ob
}

// Occupy holds a session until until is closed, and closes held once it has it.
func (d *Device) Occupy(held, until chan struct{}) error {
	return d.do(context.Background(), "occupying", func(*session) error {
		close(held)
		<-until
		return nil
	})
}

// MakeWith replaces what Generate asks of the token.
func (d *Device) MakeWith(change func(public, private []*pkcs11.Attribute) (_, _ []*pkcs11.Attribute)) {
	d.token.templates = func(spec key.Spec) (public, private []*pkcs11.Attribute) { return change(template(spec)) }
}

// ParsePoint is parsePoint, for fuzzing.
func ParsePoint(b []byte) ([]byte, error) { return parsePoint(b) }

// ReadPIN is readPIN.
func ReadPIN(path string) ([]byte, error) { return readPIN(path) }

// LoseIdle closes the idle sessions behind the Device's back, as a token does
// that thinks them forgotten, and returns how many.
func (d *Device) LoseIdle() int {
	_ = d.token.gate.quiesce(context.Background())
	defer d.token.gate.reopen()
	d.token.mu.Lock()
	defer d.token.mu.Unlock()
	for _, s := range d.token.idle {
		_ = d.token.module.lib.CloseSession(s)
	}
	return len(d.token.idle)
}
