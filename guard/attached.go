package guard

import (
	"fmt"
	"slices"

	"github.com/sealwright/sealwright/key"
)

// attach puts a MAC over a row in front of its data, for tables whose rows have
// no column of their own for one: a length byte, the MAC, the data. columns are
// the row's others.
func (d *Door) attach(table string, data []byte, columns ...any) []byte {
	mac := d.rows.RowMAC(table, append(columns, data)...)
	return slices.Concat([]byte{byte(len(mac))}, mac, data)
}

// detach takes off what attach put on, or returns key.ErrIntegrity.
func (d *Door) detach(table string, attached []byte, columns ...any) (data []byte, err error) {
	if len(attached) == 0 || len(attached) < 1+int(attached[0]) {
		return nil, fmt.Errorf("%w: a row of table %s has no MAC", key.ErrIntegrity, table)
	}
	mac := attached[1 : 1+int(attached[0])]
	data = attached[1+len(mac):]
	return data, d.rows.CheckRow(mac, table, append(columns, data)...)
}
