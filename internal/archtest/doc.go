// Package archtest proves the arrows of docs/architecture.md on the real
// import graph: who may know whom, and what stays free of Linux.
//
// It holds tests only. It owns no code and is called by nobody.
package archtest
