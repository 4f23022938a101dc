//go:build !race

package integration

// raceDetector reports whether the tests run under it.
const raceDetector = false
