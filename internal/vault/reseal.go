package vault

import (
	"context"
	"slices"
)

// reseal seals with the newest key what the previous one has sealed of a grant, right
// after its newest generation was stored. So the previous key has to stay for one
// update of each grant, and no longer. If it fails, the next update tries again.
func (v *Vault) reseal(ctx context.Context, g Grant, newest uint64) {
	if v.config().PreviousKey.IsZero() {
		return
	}
	s, err := v.read(ctx, g.Name)
	if err != nil || s.newest().Generation != newest {
		return
	}
	for i, slot := range []string{slotB, slotA} {
		if slices.Contains(s.old, slot) {
			_ = v.store(ctx, g.Name, slot, s.slots[i].unsealed())
		}
	}
	if slices.Contains(s.old, intentObject) {
		_ = v.store(ctx, g.Name, intentObject, s.intent)
	}
	_ = v.storeLabel(ctx, g)
}
