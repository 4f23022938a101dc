//go:build unix

package terminal

import (
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// OtherOwner returns the name of the user whom a folder belongs to; "" if that is the
// user this process runs as, or if there is no such folder.
func OtherOwner(folder string) string {
	info, err := os.Stat(folder)
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) == os.Geteuid() {
		return ""
	}
	id := strconv.FormatUint(uint64(stat.Uid), 10)
	if owner, err := user.LookupId(id); err == nil {
		return owner.Username
	}
	return "#" + id // as sudo takes it
}
