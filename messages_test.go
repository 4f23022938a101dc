package upstreamoauth2

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestMessagesAreDocumented: docs/messages.md has each message that the log may have,
// and no other.
func TestMessagesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/messages.md")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(page), "## The error")
	var documented []string
	for row := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(row, "| `"); ok {
			message, _, _ := strings.Cut(rest, "` |")
			documented = append(documented, message)
		}
	}

	logged := loggedMessages(t)
	for _, message := range logged {
		if !slices.Contains(documented, message) {
			t.Errorf("docs/messages.md has no row for %q", message)
		}
	}
	for _, message := range documented {
		if !slices.Contains(logged, message) {
			t.Errorf("docs/messages.md has a row for %q, which nothing logs", message)
		}
	}
}

// loggedMessages are what the module's code hands to a logger: as a literal, or by
// way of a variable that is called message.
func loggedMessages(t *testing.T) []string {
	var files, messages []string
	for _, pattern := range []string{"*.go", "config/*.go", "connect/*.go", "internal/*/*.go", "authserver/*.go"} {
		found, _ := filepath.Glob(pattern)
		files = append(files, found...)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "internal/caddytest/") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				method, ok := n.Fun.(*ast.SelectorExpr)
				if ok && len(n.Args) > 0 && slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
					messages = append(messages, literal(n.Args[0])...)
				}
				if ok && len(n.Args) > 1 && method.Sel.Name == "Log" {
					messages = append(messages, literal(n.Args[1])...)
				}
			case *ast.AssignStmt:
				for i, left := range n.Lhs {
					if name, ok := left.(*ast.Ident); ok && name.Name == "message" && len(n.Rhs) == len(n.Lhs) {
						messages = append(messages, literal(n.Rhs[i])...)
					}
				}
			}
			return true
		})
	}
	return messages
}

// literal returns the text of a string literal; nothing for another expression.
func literal(e ast.Expr) []string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		text, _ := strconv.Unquote(lit.Value)
		return []string{text}
	}
	return nil
}
