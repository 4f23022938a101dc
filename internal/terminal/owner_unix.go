//go:build unix

package terminal

import (
	"os"
	"os/user"
	"path/filepath"
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

// DataFolderOf returns the folder in which a Caddy of that user keeps its data by
// default; "" if there is no such user, or folder.
func DataFolderOf(name string) string {
	u, err := user.Lookup(name)
	if err != nil {
		return ""
	}
	folder := filepath.Join(u.HomeDir, ".local", "share", "caddy")
	if _, err := os.Stat(folder); err != nil {
		return ""
	}
	return folder
}
