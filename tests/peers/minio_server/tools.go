//go:build tools

package tools

// Names the program that the build makes, so that Go knows what the module is for.
import _ "github.com/minio/minio"
