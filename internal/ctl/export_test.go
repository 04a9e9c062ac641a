package ctl

// For tests: what reads data from outside and what no command shows alone.
var (
	FindGateway  = findGateway
	ParseSubnets = parseSubnets
	ParseNode    = parseNode
	Span         = span
	Clean        = clean
)
