package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"path"
)

// Name is what a grant is called in the storage: a hash, which tells nothing to who
// cannot guess what it was made of.
type Name string

// NewName makes a name of the parts that tell one grant from another. The same parts
// make the same name in every process.
func NewName(parts ...string) Name {
	sum := sha256.Sum256(prefixed(parts...))
	return Name(hex.EncodeToString(sum[:]))
}

// prefixed joins the parts, each behind its length, so that no two lists of parts
// come out alike.
func prefixed(parts ...string) []byte {
	var joined []byte
	for _, part := range parts {
		joined = binary.BigEndian.AppendUint64(joined, uint64(len(part)))
		joined = append(joined, part...)
	}
	return joined
}

// The keys in the storage.
const (
	root       = "upstream_oauth2/v1"
	indexRoot  = root + "/index"
	sharedRoot = root + "/shared"
	probeRoot  = root + "/probe"
)

// The objects of a grant.
const (
	slotA        = "a"
	slotB        = "b"
	intentObject = "intent"
	indexObject  = "index"
	sharedObject = "shared"
	probeObject  = "probe"
)

// slotOf returns the slot of a generation: never that of the one before.
func slotOf(generation uint64) string {
	if generation%2 == 1 {
		return slotA
	}
	return slotB
}

// key returns where an object of the grant is stored.
func (n Name) key(object string) string {
	switch object {
	case indexObject:
		return path.Join(indexRoot, string(n))
	case sharedObject:
		return path.Join(sharedRoot, string(n))
	case probeObject:
		return path.Join(probeRoot, string(n))
	}
	return path.Join(root, string(n), object)
}

// lock is the name of the grant's lock. Some storages keep locks among the data.
func (n Name) lock() string { return "upstream_oauth2-lock-" + string(n) }

// isName tells the names in a listing from temporary files.
func isName(text string) bool {
	sum, err := hex.DecodeString(text)
	return err == nil && len(sum) == sha256.Size
}
