// Package stock runs the stock clients, etcdctl and clientv3, against etcd and against Trilith, and
// compares what a user sees.
package stock

import (
	"regexp"
	"slices"
	"strings"

	"trilith.dev/tests/internal/compare"
)

// Columns of `endpoint status` and `endpoint health` that show what compare.NotCompared names, and
// the time that a call took.
var (
	hiddenColumns = []string{
		"DB SIZE", "IN USE", "PERCENTAGE NOT IN USE", "RAFT TERM", "RAFT INDEX",
		"RAFT APPLIED INDEX", "TOOK",
	}
	// The same columns in the simple format, which has no heading.
	hiddenStatusFields = []int{4, 5, 6, 10, 11, 12}
)

var (
	hiddenMembers = hiddenMemberPattern()
	took          = regexp.MustCompile(`(took = |"took":"|"Took" : )[0-9.]+[µnm]?s`)
	remaining     = regexp.MustCompile(`(remaining\(|"ttl":)\d+`)
	statusLine    = regexp.MustCompile(`^ENDPOINT(, [^,]*){14,}`)
	space         = regexp.MustCompile(` +`)
)

// hiddenMemberPattern makes one pattern of the list for messages: etcdctl prints fields as
// "raft_term", "raftTerm" or "RaftTerm", by format.
func hiddenMemberPattern() *regexp.Regexp {
	var names []string
	for message, fields := range compare.NotCompared {
		for _, field := range fields {
			// "hash" is one message's field that others share by name.
			if message != "etcdserverpb.HashResponse" {
				names = append(names, strings.ReplaceAll(string(field), "_", "_?"))
			}
		}
	}
	slices.Sort(names)
	return regexp.MustCompile(`(?i)("(?:` + strings.Join(names, "|") + `)"\s*:\s*)-?\d+`)
}

// normalize hides what compare.NotCompared names from printed text, and gives equal names to what
// each server chose for itself: its address, and the ids of leases.
func normalize(text string, names map[string]string) string {
	for name, placeholder := range names {
		text = strings.ReplaceAll(text, name, placeholder)
	}
	text = hiddenMembers.ReplaceAllString(text, "$1*")
	text = took.ReplaceAllString(text, "$1*")
	text = remaining.ReplaceAllString(text, "$1*")
	var lines []string
	var hidden []int
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, `{"level":`):
			// The client's own log.
			continue
		case strings.ContainsAny(line[:min(len(line), 3)], "┌├└"):
			// Borders follow the width of what is hidden.
			continue
		case strings.HasPrefix(line, "│"):
			line, hidden = normalizeRow(line, hidden)
		case statusLine.MatchString(line):
			fields := strings.Split(line, ", ")
			for _, i := range hiddenStatusFields {
				fields[i] = "*"
			}
			line = strings.Join(fields, ", ")
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// normalizeRow hides cells of a table; the heading tells which.
func normalizeRow(line string, hidden []int) (string, []int) {
	cells := strings.Split(space.ReplaceAllString(line, " "), "│")
	if hidden == nil {
		hidden = []int{}
		for i, cell := range cells {
			if slices.Contains(hiddenColumns, strings.TrimSpace(cell)) {
				hidden = append(hidden, i)
			}
		}
		return strings.Join(cells, "│"), hidden
	}
	for _, i := range hidden {
		cells[i] = " * "
	}
	return strings.Join(cells, "│"), hidden
}
