package crash

import (
	"testing"

	"trilith.dev/tests/internal/mounts"
)

func TestMain(m *testing.M) { mounts.Main(m) }
