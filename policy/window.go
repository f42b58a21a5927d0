package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/key"
)

// minutesPerWeek: windows live on a week of minutes, Monday 00:00 UTC first.
const (
	minutesPerDay  = 24 * 60
	minutesPerWeek = 7 * minutesPerDay
)

// span is [from, to) in minutes of the week; to may pass the week's end.
type span struct{ from, to int }

// windows is when a policy applies; empty is always.
type windows []span

// parseWindows reads the value of @window:
//
//	windows = window *( ";" window )
//	window  = days " " hours
//	days    = "daily" / day-or-range *( "," day-or-range )    ; mon, mon-fri, sat,sun; fri-mon passes the weekend
//	hours   = HH:MM "-" HH:MM                                 ; UTC, the end excluded; 24:00 is the day's end
//
// Hours that end before they begin pass midnight and belong to the day they begin on.
func parseWindows(s string) (windows, error) {
	var all windows
	for part := range strings.SplitSeq(s, ";") {
		fields := strings.Fields(part)
		if len(fields) != 2 {
			return nil, fmt.Errorf(`%w: window %.60q: write days and hours, like "mon-fri 08:00-18:00"`, key.ErrInvalid, part)
		}
		days, err := parseDays(fields[0])
		if err != nil {
			return nil, err
		}
		from, to, err := parseHours(fields[1])
		if err != nil {
			return nil, err
		}
		for day := range 7 {
			if days[day] {
				all = append(all, span{day*minutesPerDay + from, day*minutesPerDay + to})
			}
		}
	}
	return all, nil
}

func parseDays(s string) (days [7]bool, err error) {
	if s == "daily" {
		return [7]bool{true, true, true, true, true, true, true}, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, b := dayIndex(first), dayIndex(last)
		if a < 0 || b < 0 {
			return days, fmt.Errorf(`%w: days %.60q: use daily, or mon, tue, wed, thu, fri, sat, sun, ranges like mon-fri and lists with commas`, key.ErrInvalid, s)
		}
		for d := a; ; d = (d + 1) % 7 {
			days[d] = true
			if d == b {
				break
			}
		}
	}
	return days, nil
}

func dayIndex(s string) int {
	for i, name := range [...]string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"} {
		if s == name {
			return i
		}
	}
	return -1
}

func parseHours(s string) (from, to int, err error) {
	a, b, ok := strings.Cut(s, "-")
	from, okFrom := parseClock(a)
	to, okTo := parseClock(b)
	if !ok || !okFrom || !okTo || from == to || from == minutesPerDay {
		return 0, 0, fmt.Errorf(`%w: hours %.60q: write HH:MM-HH:MM in UTC, like 08:00-18:00, the end excluded`, key.ErrInvalid, s)
	}
	if to < from {
		to += minutesPerDay
	}
	return from, to, nil
}

func parseClock(s string) (minute int, ok bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	h, errH := strconv.ParseUint(s[:2], 10, 8)
	m, errM := strconv.ParseUint(s[3:], 10, 8)
	if errH != nil || errM != nil || m > 59 || h > 24 || h == 24 && m != 0 {
		return 0, false
	}
	return int(h)*60 + int(m), true
}

// open reports whether a policy with these windows applies at now.
func (w windows) open(now time.Time) bool {
	if len(w) == 0 {
		return true
	}
	now = now.UTC()
	minute := (int(now.Weekday())+6)%7*minutesPerDay + now.Hour()*60 + now.Minute()
	for _, s := range w {
		// The second test is for a window that began last week, on Sunday evening.
		if s.from <= minute && minute < s.to || minute+minutesPerWeek < s.to {
			return true
		}
	}
	return false
}
