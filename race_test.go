//go:build race

package upstreamoauth2

// raceDetector reports whether the tests run under it.
const raceDetector = true
