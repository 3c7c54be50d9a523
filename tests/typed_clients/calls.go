// Prints the figures of all packages, and the dumps: `go run ./calls ADDRESS`.
package main

import (
	"context"
	"fmt"
	"os"

	client "github.com/example/pypi-stats"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	configuration := client.NewConfiguration()
	configuration.Servers = client.ServerConfigurations{{URL: os.Args[1]}}
	api := client.NewAPIClient(configuration)
	ctx := context.Background()

	recent, _, err := api.PackagesAPI.GetRecent(ctx, "__all__").Execute()
	check(err)
	fmt.Println(*recent.Data.LastDay, *recent.Data.LastWeek, *recent.Data.LastMonth)

	request := api.PackagesAPI.GetOverall(ctx, "__all__").Mirrors(client.MIRRORS_FALSE)
	overall, _, err := request.Interval(client.INTERVAL_WEEK).Execute()
	check(err)
	for _, item := range overall.Data {
		fmt.Println(item.Date, item.Category, item.Downloads)
	}

	dumps, _, err := api.DumpsAPI.GetDumps(ctx).Execute()
	check(err)
	for _, dump := range dumps.Data {
		fmt.Println(dump.Day, dump.Name, dump.Bytes, dump.Downloads)
	}

	_, response, err := api.PackagesAPI.GetRecent(ctx, "no-such-package").Execute()
	problem := err.(*client.GenericOpenAPIError).Model().(client.Problem)
	fmt.Println(response.StatusCode, problem.Detail)
}
