package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Progress shows how far long work is, on a terminal only and not for work that
// is done at once.
type Progress struct {
	out   io.Writer // nil: nobody is looking
	label string
	began time.Time
	drawn time.Time
}

const (
	patience = 500 * time.Millisecond // work shorter than this shows nothing
	redraw   = 100 * time.Millisecond
	barWidth = 30
)

// NewProgress shows progress on out if it is a terminal.
func NewProgress(out io.Writer, label string) *Progress {
	p := &Progress{label: label, began: time.Now()}
	if IsTerminal(out) {
		p.out = out
	}
	return p
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && info.Mode()&os.ModeDevice != 0 && f.Name() != os.DevNull
}

// Set shows that done of total is done; a total of 0 is unknown.
func (p *Progress) Set(done, total int64) {
	now := time.Now()
	if p.out == nil || now.Sub(p.began) < patience || now.Sub(p.drawn) < redraw && done != total {
		return
	}
	p.drawn = now
	if total <= 0 {
		fmt.Fprintf(p.out, "\r%s %d", p.label, done)
		return
	}
	filled := int(barWidth * min(done, total) / total)
	fmt.Fprintf(p.out, "\r%s [%s%s] %3d%%", p.label, strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled), 100*min(done, total)/total)
}

// Done ends the display.
func (p *Progress) Done() {
	if p.out != nil && !p.drawn.IsZero() {
		fmt.Fprint(p.out, "\r", strings.Repeat(" ", len(p.label)+barWidth+8), "\r")
	}
}
