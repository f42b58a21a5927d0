//go:build race

package envelope

// raceDetector says that everything takes ten times as long.
const raceDetector = true
