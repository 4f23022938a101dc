//go:build !unix

package terminal

// OtherOwner returns "": whose a folder is says little here.
func OtherOwner(string) string { return "" }

// DataFolderOf returns "": services have no homes here.
func DataFolderOf(string) string { return "" }
